"""Images at work: how one is started, by compose or by jbuild itself, and which one a device is to start."""

"""Tags on proven digests: registries, mirrors, publications."""

"""How fast a server answers: measured at a few concurrencies and kept as JSON."""

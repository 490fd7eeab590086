"""How fast a server answers: measured at a few concurrencies, kept as JSON, drawn as SVG."""

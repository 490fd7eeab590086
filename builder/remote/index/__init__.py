"""Package indexes: their pages, the METADATA of their wheels, and the proxy that uv uses."""

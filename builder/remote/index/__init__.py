"""Package indexes: what they list, what their wheels say of themselves, and the front that uv asks instead of them."""

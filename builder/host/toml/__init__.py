"""TOML documents: tables as declarations that read, check and describe them."""

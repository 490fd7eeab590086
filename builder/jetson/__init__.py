"""What is known about targets: L4T releases, distributions, boards. Data in TOML, each row with its source."""

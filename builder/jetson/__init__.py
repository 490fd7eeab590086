"""Facts about targets: L4T releases, distributions, boards, indexes, advisories. TOML rows with their sources."""

"""The cache: its contents, the entries that this project's locks need, and pruning."""

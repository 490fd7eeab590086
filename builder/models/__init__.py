"""Model files: sources, selection, hashes, the store, and the memory that a model needs on a board."""

"""Models: selection of their files, locks by hash, downloads, and the memory that they need."""

"""Layers: descriptions of their contents, which become blobs or folders in one pass."""

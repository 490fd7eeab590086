"""Bundles: an image with its evidence and its project in a folder that travels to machines without a registry."""

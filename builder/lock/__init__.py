"""From a cell to a lock: the exact wheels, base image and model files."""

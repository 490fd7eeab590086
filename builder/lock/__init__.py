"""Stage 1: the exact wheels, base image and model files of a cell."""

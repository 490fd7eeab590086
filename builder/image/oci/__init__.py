"""Layers and images as an OCI layout, written without an engine."""

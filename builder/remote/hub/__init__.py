"""Model hubs and registries that serve models."""

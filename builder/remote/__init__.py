"""Servers: HTTP, resumable downloads, registries, package indexes, model hubs and the wheelhouse."""

"""Clients of servers: registries, indexes, hubs and model servers."""

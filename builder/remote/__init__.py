"""Clients of registries, package indexes, model hubs and OpenAI servers."""

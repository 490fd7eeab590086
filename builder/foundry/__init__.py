"""Wheels that nobody publishes: built from source, also for another architecture."""

"""Builds wheels that no index has, makes them honest, checks them, and shares them."""

"""Compares the pre-flight with the starts of real servers."""

"""Estimates whether a model and its server fit into a board's memory."""

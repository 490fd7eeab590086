"""Fits or not: the memory that a model and its server need, against what a board has."""

"""Recipes, their matrix, and its cells: pure functions of files."""

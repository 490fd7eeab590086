"""Writes a first recipe from a few answers: questions, proposals, and the commented file."""

"""Writes a first recipe from a few answers: what is asked, what is proposed, and the commented file."""

"""Stages, the runner of cells through them, and the records of earlier runs."""

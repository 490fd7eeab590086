"""Checks of slimmed libraries, and small libraries to check."""

"""The HTML page about a project."""

"""The build stage: from a rendered plan to an image."""

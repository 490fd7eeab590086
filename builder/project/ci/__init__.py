"""Cells for a CI system: jobs of GitHub's matrix, and changed inputs."""

"""Which cells a CI system is to work on: jobs for GitHub's matrix, and which inputs changed."""

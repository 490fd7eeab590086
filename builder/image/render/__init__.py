"""The render stage: from a lock to a folder that `docker buildx build` can build."""

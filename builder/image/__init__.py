"""From a lock to an image: layers, Dockerfile, buildx, and the OCI layout that holds what was built."""

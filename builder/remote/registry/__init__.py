"""A client for container registries: references, log-in, manifests, blobs."""

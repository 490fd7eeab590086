"""Client of container registries: references, log-in, manifests, blobs."""

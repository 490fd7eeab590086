"""Compiles PTX of wheels for the GPUs of an image at build time, so that no board does it at its first start."""

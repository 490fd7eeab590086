"""Takes code for other GPUs out of libraries and wheels."""

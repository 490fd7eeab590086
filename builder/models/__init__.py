"""Models: where they come from, the files locked by hash, and how they are laid into an image."""

"""Results as people read them, where that is more than a few lines."""

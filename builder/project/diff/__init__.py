"""The differences between two locks, cells or images, and the bytes that a device pulls for an update."""

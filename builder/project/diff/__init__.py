"""What is different between two locks, cells or images, and what a device must pull to go from one to the other."""

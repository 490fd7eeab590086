"""What a machine needs to make and run images: each thing looked at, and the command that mends what is wrong."""

"""What happens on the board: memory estimates, services, measurements."""

"""Stage 5: starts the built image, asks it the recipe's questions, and records a verdict."""

"""Stage 5: the built image starts, answers the recipe's questions, and gets a verdict."""

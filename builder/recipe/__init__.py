"""What somebody wants: recipes, their matrix, and the cells it expands to. Pure functions of files."""

"""From recipes to cells: the matrix and the specification of each cell. Pure functions of files."""

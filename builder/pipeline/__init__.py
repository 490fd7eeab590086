"""The stages of a cell in order: what a stage is, how cells are run through them, and what earlier runs left."""

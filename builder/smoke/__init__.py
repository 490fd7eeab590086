"""The questions a built image must answer before it gets a tag."""

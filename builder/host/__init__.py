"""The machine that jbuild runs on: processes, files and their formats."""

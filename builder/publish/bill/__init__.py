"""The parts of an image's bill of materials: packages, wheels and their own bills, models, dependencies."""

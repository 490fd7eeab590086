"""The campaign of built wheels: projects of other authors, cross-built, audited and imported."""

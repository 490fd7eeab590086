"""The page of `jbuild report`: from records to one HTML file that needs nothing else."""

"""The wheelhouse: wheels fetched, verified and unpacked once, shared by all cells."""

"""The command line: parses what users type, calls the rooms below, and shows results as text or JSON."""

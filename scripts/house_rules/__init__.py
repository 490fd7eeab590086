"""The house rules: the allowed imports between folders, unique names, and words that names must avoid."""

"""What `--json` prints, verb by verb, as types; and those types as JSON Schema."""

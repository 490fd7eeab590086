"""One module a verb, or a few that belong together: options, the call, and the result."""

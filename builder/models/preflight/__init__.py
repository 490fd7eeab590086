"""The pre-flight: whether the server of a cell starts with its model, by what the locked wheels' own sources say."""

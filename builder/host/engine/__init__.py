"""The container engine and its containers."""

"""Servers that jbuild reads from and writes to."""

"""Runs jbuild against servers that fail, kills it, and checks what it leaves."""

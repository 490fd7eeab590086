"""Compares the audit's verdicts with the results of the dynamic loader in an arm64 container."""

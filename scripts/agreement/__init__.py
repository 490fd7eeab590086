"""Compares the audit's verdicts with what the dynamic loader of an arm64 container says."""

"""This machine: its engine, processes, files and console."""

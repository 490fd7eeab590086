"""This machine: processes, threads, files and the console."""

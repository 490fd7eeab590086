"""This machine: processes, threads, paths, files, settings, TOML, the console and the container engine."""

"""Lets `python -m builder` stand in for the `jbuild` command."""

from builder.cli import main

if __name__ == "__main__":
    main()

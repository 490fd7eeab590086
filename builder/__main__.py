"""Lets `python -m builder` stand in for the `jbuild` command."""

from builder.cli.main import main

if __name__ == "__main__":
    main()

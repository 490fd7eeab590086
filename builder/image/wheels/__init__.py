"""Wheels, fetched and verified once, as files of an image; and their bytecode."""

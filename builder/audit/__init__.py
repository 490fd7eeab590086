"""The audit compares the needs of the wheels' binaries with the base image, the other wheels and the GPU.

It only reads files: it never runs a program or code of a wheel.
"""

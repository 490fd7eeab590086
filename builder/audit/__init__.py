"""What the wheels' binaries need, against what the base image, the other wheels and the GPU give.

Pure on files: nothing here runs a program or anything of a wheel.
"""

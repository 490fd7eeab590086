"""jbuild: recipes in, proven vLLM images for NVIDIA Jetson out."""

__version__ = "0.1.0"

"""The cache: what lies in it, what this project's locks need of it, and what may go."""

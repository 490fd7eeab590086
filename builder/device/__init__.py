"""Images at work on a machine: services, container runs and benchmarks."""

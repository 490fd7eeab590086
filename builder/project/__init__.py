"""The project and its machine, beside the flow: doctor, cache, CI, diff, init and the report page."""

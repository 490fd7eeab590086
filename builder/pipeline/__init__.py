"""The frame of the stages: their order and protocol, the runner, and the records of earlier runs."""

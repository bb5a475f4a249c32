"""The parts of `tools/benchmark.py`, one a file."""

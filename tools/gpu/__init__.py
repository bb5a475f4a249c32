"""The parts of `tools/gpu_check.py`, one a file: each has `SECONDS`, what it may take, and `measure(setting)`."""

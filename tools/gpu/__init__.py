"""The parts of `tools/gpu_check.py`, one per file: each has `measure(setting)`."""

"""BasicSR training models."""

"""Rain: rendered, varied, laid on clean images."""

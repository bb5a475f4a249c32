"""BasicSR's runtime made reliable: options, launch, training, testing, summary."""

"""Launch, train, test, checkpoints, logs, summary."""

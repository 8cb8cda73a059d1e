"""When to train: cron, drift, one scheduler of several. Imported by commands."""

"""Decide when to train: by cron or by drift, one scheduler of several. Imported by commands."""

"""The commands of `segtrainer`, one file a group. Imported by trainer.cli alone."""

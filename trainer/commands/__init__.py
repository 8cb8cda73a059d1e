"""The commands of `segtrainer`, one file per group. Imported by trainer.cli alone."""

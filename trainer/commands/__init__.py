"""The commands of `segtrainer`, one file per group. Imported by cli."""

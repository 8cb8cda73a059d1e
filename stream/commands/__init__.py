"""The commands of `segstream`, one file a group. Imported by stream.cli alone."""

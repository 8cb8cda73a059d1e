"""Records that can't be used, and how they are sent back. Imported by engine, adapters, outputs and commands."""

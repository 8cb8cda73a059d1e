"""A rehearsal: past orders, replayed in memory. Imported by commands, demo and trainer."""

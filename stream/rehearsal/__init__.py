"""A rehearsal: past orders, replayed in memory. Imported by bench, commands, demo and trainer."""

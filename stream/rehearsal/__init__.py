"""A rehearsal: past orders, replayed in memory. Imported by campaigns, commands, demo and trainer."""

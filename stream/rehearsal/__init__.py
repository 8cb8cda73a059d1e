"""A rehearsal: past orders, replayed in memory through the scoring step. Imported by bench, demo and trainer."""

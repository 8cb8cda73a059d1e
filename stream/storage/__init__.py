"""Redis: keys, heads, reads, scans. Imported by engine, customers, models, commands and the trainer."""

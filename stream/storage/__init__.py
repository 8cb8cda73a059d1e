"""What lies where in Redis, and the one read side of it. Imported by engine, customers, models, commands and the trainer."""

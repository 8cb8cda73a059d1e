"""The models topic, previews of a model, and drift. Imported by worker, customers, commands, demo and trainer."""

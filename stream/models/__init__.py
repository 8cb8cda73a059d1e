"""The models topic, previews of a model, and drift. Imported by commands, customers, demo, trainer and worker."""

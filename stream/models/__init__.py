"""The models topic, and what a model would do. Imported by worker, customers, commands and demo."""

"""The models topic, previews of a model, and drift.

Imported by campaigns, commands, customers, demo, trainer and worker.
"""

"""Work on whole shards that an operator decides on: rebuilt from Kafka, stepped over lost records, other settings.

Imported by commands and reshard.
"""

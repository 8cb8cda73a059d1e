"""Repairs that an operator decides on: shards rebuilt from Kafka, and shards that go on although records were lost.

Imported by commands.
"""

"""The demo: real orders on a Kafka and Valkey of its own, to segments and campaign actions. Imported by commands."""

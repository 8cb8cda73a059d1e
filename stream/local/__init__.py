"""A real Kafka and Valkey on this machine. Imported by commands and demo."""

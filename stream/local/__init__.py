"""A real Kafka and Valkey on this machine. Imported by bench, commands and demo."""

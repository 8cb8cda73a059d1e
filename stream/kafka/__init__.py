"""Kafka's clients, topics and consumer groups. Imported by everything that reads or writes Kafka."""

"""Kafka's clients, topics and consumer groups. Imported by everything that speaks to Kafka."""

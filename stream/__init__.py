"""The online side: orders in from Kafka, moves out, states in Redis."""

"""Studies without a Kafka broker, and the training of a million customers: programs of their own.

Imported by nothing.
"""

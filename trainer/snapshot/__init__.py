"""The customers to train on, from Redis, a replica or a file.

Imported by bench, prospects, rhythm, run and training.
"""

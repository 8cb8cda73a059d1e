"""Traces of one customer: all places that can hold an id, and what is in them. Imported by customers."""

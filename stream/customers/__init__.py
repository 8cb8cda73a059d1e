"""Customers: look-up, export, forecast and erasure. Imported by commands and demo."""

"""Webhooks by Standard Webhooks 1.0, and the endpoints that they go to: one attempt, its rules and its limits.

Imported by commands, delivery.
"""

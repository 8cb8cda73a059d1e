"""Delivery of campaign actions to endpoints: each at least once, in order per customer, across failures and restarts.

Imported by commands.
"""

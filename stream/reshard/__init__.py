"""`segstream reshard`: the customers of N shards become those of more.

Imported by commands.
"""

"""Records that can't be used, and how they are sent back.

Imported by adapters, commands, customers, delivery, engine and outputs.
"""

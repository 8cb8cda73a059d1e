"""Rates of other currencies: files of them, and their topic.

Imported by commands, repair, reshard, trainer, uplift and worker.
"""

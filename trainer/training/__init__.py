"""From a snapshot to a model: plan, fits, choice, names.

Imported by bench, commands, prospects, registry, rhythm and run.
"""

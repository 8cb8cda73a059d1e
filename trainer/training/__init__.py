"""From a snapshot to a model: plan, fits, choice, names. Imported by bench, commands, registry, rhythm and run."""

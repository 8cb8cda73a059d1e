"""From a snapshot to a model: plan, fits, choice, names. Imported by run, registry and report."""

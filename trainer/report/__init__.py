"""The report of a training run, as HTML, Markdown and JSON. Imported by commands, registry and run."""

"""The report of a training run, as HTML, Markdown and JSON. Imported by registry and run."""

"""Results as Markdown tables. Imported by the command line."""

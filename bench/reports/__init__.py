"""Results as Markdown tables. Imported by __main__ and rows."""

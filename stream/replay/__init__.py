"""Orders of files, published by time. Imported by bench, commands, customers and demo."""

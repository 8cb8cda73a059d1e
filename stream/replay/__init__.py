"""Orders of files, published by time. Imported by demo and commands."""

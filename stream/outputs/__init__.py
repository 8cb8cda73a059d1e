"""What the output topics hold, as lines for people and scripts. Imported by commands."""

"""The records of the output topics as lines, for people and scripts. Imported by commands and demo."""

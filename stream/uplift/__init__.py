"""The uplift of campaigns: treated customers against those held out. Imported by commands and bench."""

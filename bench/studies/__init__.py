"""Longer questions with a command line of their own, answered without servers or with few. Imported by nothing."""

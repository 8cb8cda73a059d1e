"""The demo: real orders through a stack of its own, to segments and actions. Imported by commands."""

"""The commands of `segstream`, one file for each group, named like the room that it commands. Imported by stream.cli alone.

Every start of `segstream` imports these files, so they import what a command needs inside the command.
"""

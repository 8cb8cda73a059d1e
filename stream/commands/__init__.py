"""The commands of `segstream`, a file for each group, named like its room. Imported by stream.cli alone.

Every start of `segstream` imports these files, so they import what a command needs inside the command.
"""

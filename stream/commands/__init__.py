"""The commands of `segstream`, a file for each group, named like its room. Imported by cli."""

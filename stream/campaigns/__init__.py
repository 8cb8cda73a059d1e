"""Campaign rules, tried on past moves and on those to come. Imported by commands and worker."""

"""One benchmark on real servers a file. Imported by the rows of the command line."""

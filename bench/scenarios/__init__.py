"""The benchmarks on real servers, one a file. The rows of the command line import it."""

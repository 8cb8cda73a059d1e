"""The benchmarks on real servers, one a file. Imported by rows, studies and time_rows."""

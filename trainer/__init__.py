"""The offline side: a snapshot of the customers in, a segment model out."""

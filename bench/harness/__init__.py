"""The ground of every benchmark: processes, orders, meters and checks. Everything else in bench may import it."""

"""The ground of every benchmark: processes, orders, meters and checks.

Imported by __main__, rows, scenarios, studies and time_rows.
"""

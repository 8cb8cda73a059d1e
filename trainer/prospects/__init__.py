"""The prospects of a model's segments, for the report: expected orders, customers near a border. Imported by run."""

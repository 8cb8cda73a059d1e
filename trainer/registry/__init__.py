"""The models topic and the reports topic, written and read. Imported by run, schedule and commands."""

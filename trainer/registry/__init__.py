"""The models topic and the reports topic, written and read. Imported by bench, commands, run and schedule."""

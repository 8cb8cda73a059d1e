"""Files of orders, read as rows. Knows no Kafka, Redis or settings.

Imported by bench, campaigns, commands, customers, demo, rehearsal, replay, trainer and uplift.
"""

"""Files of orders, read as rows. Knows no Kafka, Redis or settings.

Imported by bench, commands, demo, rehearsal, replay and trainer.
"""

"""Files of orders become rows. Pure: knows no Kafka, Redis or settings. Imported by replay, demo, commands and the trainer."""

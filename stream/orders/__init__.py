"""Files of orders, read as rows. Knows no Kafka, Redis or settings. Imported by replay, demo, commands and trainer."""

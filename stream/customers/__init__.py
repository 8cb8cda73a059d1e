"""What is known of customers: look-up, export, forecast, erasure. Imported by commands and demo."""

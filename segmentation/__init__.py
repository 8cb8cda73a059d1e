"""What worker and trainer share: events, a customer's state, the model and both steps. Pure: no I/O, no clock."""

"""What the worker and the trainer share: events, a customer's state, the model, the two steps. Pure: no I/O, no clock."""

"""The pure core that worker and trainer share: events, states, model, both steps. No I/O, no clock; imports neither."""

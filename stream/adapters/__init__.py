"""Records of other topics become order events, in a separate process. Imported by commands."""

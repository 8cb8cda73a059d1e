"""Records of other topics become order events, in a process of their own. Imported by commands."""

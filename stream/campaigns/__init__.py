"""Campaign rules tried on what has happened and on what is to come, without sending. The commands import it."""

"""The HTTP server and the Faust launcher of long-running processes, and how Ctrl-C ends a command.

Imported by adapters, commands, delivery, trainer and worker.
"""

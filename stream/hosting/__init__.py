"""The HTTP server and the Faust launcher of long-running processes. Imported by worker, adapters and trainer."""

"""The HTTP server and the Faust launcher of long-running processes. Imported by adapters, trainer and worker."""

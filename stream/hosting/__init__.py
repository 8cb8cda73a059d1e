"""What a long-running process needs around its work: HTTP server, Faust launcher. Imported by worker, adapters and trainer."""

"""The process of `segstream worker` and `segstream dispatch`: the Faust app, its steps, its HTTP server. Imported by commands."""

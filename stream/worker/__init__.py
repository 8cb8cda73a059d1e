"""The process of `segstream worker` and `segstream dispatch`: the Faust app and its steps. Imported by commands."""

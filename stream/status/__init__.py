"""The status of each shard, as its owner shows it and as others read it; no decision is taken from it.

Imported by bench, commands, demo, engine, reshard and worker.
"""

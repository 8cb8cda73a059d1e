"""Redis: keys, heads, reads, scans.

Imported by bench, campaigns, commands, customers, dead_letters, engine, models, repair, replay, reshard, status,
traces, trainer and worker.
"""

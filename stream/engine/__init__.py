"""The shard engine: turns, takeovers, store and status; blind to customers.

Imported by bench, commands, demo, repair, reshard and worker.
"""

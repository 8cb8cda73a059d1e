"""The shard engine: turns, takeovers and store; blind to customers.

Imported by bench, repair, reshard and worker.
"""

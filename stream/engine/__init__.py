"""The shard engine: turns, takeovers, ownership, store, status; blind to customers. Imported by worker, commands, demo."""

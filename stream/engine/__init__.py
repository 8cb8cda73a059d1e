"""The shard engine: turns, takeovers, store and status; blind to customers. Imported by worker, commands and demo."""

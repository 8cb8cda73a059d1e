"""The shard engine and its protocol: turns, takeovers, ownership. Knows nothing of customers. Imported by worker, commands and demo."""

"""The shard engine: turns, takeovers, ownership, ledger, store and status. Imported by worker, commands and demo."""

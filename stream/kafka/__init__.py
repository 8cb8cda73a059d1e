"""Kafka's clients, topics and consumer groups.

Imported by adapters, bench, campaigns, cli, commands, customers, dead_letters, delivery, demo, engine, models,
outputs, rates, repair, replay, reshard, status, storage, traces, trainer, uplift and worker.
"""

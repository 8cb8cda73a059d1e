"""Every use of a private part of Faust: its consumer with another rule for acknowledging and committing.

Read in faust-streaming 0.15.3, and pyproject.toml pins it to 0.15. Faust derives the committed offset from what was
acknowledged and from gaps, and commits over a record that isn't acknowledged (faust-streaming #606).
`tests/unit/stream/adapters/test_faust_internals.py` lists what is overridden.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from faust.transport.drivers import aiokafka as driver

from stream.hosting.faust_launcher import HostedApp, framework_log
from stream.kafka.aiokafka_internals import read_committed_only

LAST_COMMIT_S: Final = 10.0


def use_in_order_commits(app: HostedApp) -> None:
    """Let the app's consumer commit behind the last acknowledged record, and read committed records only.

    The caller acknowledges in order, so nothing unsent lies before the last acknowledged record.
    """
    transport: Any = app.transport
    transport.Consumer = InOrderConsumer


class _CommittedReader(driver.AIOKafkaConsumerThread):
    logger = framework_log

    def _create_worker_consumer(self, transport: Any) -> Any:
        """Make the consumer read committed records only: an aborted transaction's records are no orders."""
        # Faust reads committed records only where it also processes exactly once, by producers of its own.
        consumer = super()._create_worker_consumer(transport)
        read_committed_only(consumer)
        return consumer


class InOrderConsumer(driver.Consumer):
    """Faust's consumer, committing behind the last acknowledged record."""

    logger = framework_log

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _CommittedReader(self, loop=self.loop, beacon=self.beacon)

    def _new_offset(self, tp: Any) -> int | None:
        acked = self._acked[tp]
        if not acked:
            return None
        position = max(acked) + 1
        acked.clear()
        self._acked_index[tp].clear()
        return position

    async def _commit(self, offsets: Any) -> bool:
        """Commit as Faust does, but at the end not for ever: a thread that has ended already never answers.

        What isn't committed is read again by the next process, and counts once.
        """
        if not self.should_stop:
            return await super()._commit(offsets)
        try:
            return await asyncio.wait_for(super()._commit(offsets), LAST_COMMIT_S)
        except TimeoutError:
            framework_log.warning("the last commit wasn't confirmed: its records will be read again")
            return False

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Ignore gaps, which transactions' markers leave: no offset is derived from them here."""

    def on_buffer_full(self, tp: Any) -> None:
        """Don't pause: with a full buffer the conductor waits. Faust's pause of a second left 180 records/s."""

    def on_buffer_drop(self, tp: Any) -> None:
        """Don't resume, for nothing was paused."""

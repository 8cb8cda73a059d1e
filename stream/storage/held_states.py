"""The large states that a shard's owner holds open from one turn to the next, instead of loading them again.

While the head in Redis is the one that the owner wrote last, nobody else has written, so a held state is what Redis
holds. A turn takes it out, and only its successful commit puts it back: after any error it is gone, and Redis is asked.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from segmentation.state_bytes import ROW

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from segmentation.step import Held

MOST_ENTRIES: Final = 81_920  # of all held states of a shard: some 45 MB, five customers at the cap
LARGE: Final = 4_096  # bytes of a state that may be worth holding
_REMEMBERED: Final = 1_000  # customers whose last touch is known
_LONG: Final = 256  # touches of others after which a held state may give way


class HeldStates:
    """Keeps states open for customers that come again soon; the least recently used ones give way."""

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        """`most`: entries of all states together."""
        self._most = most
        self._held: OrderedDict[bytes, tuple[Held, int]] = OrderedDict()  # with the touch after which it was kept
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._entries = 0
        self._touches = 0

    def __len__(self) -> int:
        return len(self._held)

    def take(self, customer: bytes) -> Held | None:
        """Take a customer's state out, for one turn; None: it isn't held."""
        held, _ = self._held.pop(customer, (None, 0))
        if held is not None:
            self._entries -= held.size
        return held

    def opened(
        self,
        keys: Sequence[bytes],
        values: Mapping[bytes, bytes | None],
        held: Mapping[bytes, Held],
        hold: Callable[[bytes], Held | None] | None,
        erased: Collection[bytes],
    ) -> list[bytes | Held | None]:
        """Return the states of keys, with those opened that are wanted. `held`: those taken out; `values`: the others.

        `hold`: opens a state that is worth it; None: none is to be opened. `erased`: customers whose values come from
        tombstones.
        """
        found: list[bytes | Held | None] = []
        room = self._most - self._entries - sum(state.size for state in held.values())
        for key in keys:
            state = held.get(key)
            value = None if state else values[key]
            if hold and value and len(value) >= LARGE and key not in erased and self._is_wanted(key, len(value), room):
                state = hold(value)
                room -= state.size if state else 0
            found.append(state or value)
        return found

    def _is_wanted(self, customer: bytes, size: int, room: int) -> bool:
        """Note that a customer with a large state came. Return whether to open it: it came before, and there is room.

        To open one costs far more than to use it once. So none gives way to another that may not come again, nor while
        it is in use itself. `size`: of the state in bytes; `room`: for so many entries.
        """
        self._touches += 1
        known = customer in self._seen
        self._seen[customer] = None
        self._seen.move_to_end(customer)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        if not known:
            return False
        if size <= room * ROW.size:
            return True
        _, touched = next(iter(self._held.values()), (None, self._touches))
        return self._touches - touched > _LONG

    def keep_all(self, held: Mapping[bytes, Held]) -> None:
        """Put states back, or in."""
        for customer, state in held.items():
            self.keep(customer, state)

    def keep(self, customer: bytes, held: Held) -> None:
        """Put a state back, or in. The least recently used ones give way to it."""
        self.take(customer)
        self._touches += 1
        self._held[customer] = held, self._touches
        self._entries += held.size
        while self._entries > self._most and len(self._held) > 1:
            _, (gone, _) = self._held.popitem(last=False)
            self._entries -= gone.size

    def clear(self) -> None:
        """Let go of all states."""
        self._held.clear()
        self._seen.clear()
        self._entries = 0

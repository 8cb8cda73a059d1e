"""One state for all that can't be distinguished: without this the search wouldn't end."""

from __future__ import annotations

from tests.protocol_model.rules import ProtocolRules
from tests.protocol_model.state import (
    LoggedMove,
    ModelKafkaHead,
    ModelRedisHead,
    OutputLog,
    Redis,
    SentTransaction,
    Slot,
    State,
    StoredCustomer,
    Worker,
    Write,
)

DELETED = 0  # the token of a head that no Redis holds any more


def reduced(rules: ProtocolRules, state: State) -> State:
    """Return the state without parts that have no effect.

    These are a history that no rollback restores, a late commit that will be refused, and a worker that can only fail.
    """
    if not state.rollbacks and state.history:
        state = state._replace(history=())
    tokens = _tokens(state)
    if state.late and state.late[0].token not in tokens:
        state = state._replace(late=None)
    first, second = state.slots
    slots = (_slot(rules, first, tokens), _slot(rules, second, tokens))
    return state if slots == state.slots else state._replace(slots=slots)


def canonical(rules: ProtocolRules, state: State) -> State:
    """Return the state that stands for all that differ only in workers' names, tokens and the starts of counts."""
    state = reduced(rules, state)
    state = _Renamed(state, _tokens(state)).state()
    first, second = state.slots
    return state._replace(slots=(second, first)) if hash(first) > hash(second) else state


def _tokens(state: State) -> dict[int, int]:
    """Return new names for the tokens that Redis holds or may hold again."""
    names: dict[int, int] = {}
    for copy in state.history:
        names[copy.head.token] = len(names) + 1
    names[state.redis.head.token] = len(names) + 1
    if state.old_primary:
        names.setdefault(state.old_primary.head.token, len(names) + 1)
    return names


def _slot(rules: ProtocolRules, slot: Slot, tokens: dict[int, int]) -> Slot:
    """Drop an epoch without worker and transaction: it has no effect."""
    if slot.worker and rules.lost_means_down and _is_lost(slot, slot.worker, tokens):
        slot = slot._replace(worker=None)
    if slot.worker is None and slot.transaction is None and (slot.epoch or slot.cut_off):
        return Slot()
    return slot


def _is_lost(slot: Slot, worker: Worker, tokens: dict[int, int]) -> bool:
    """Return whether the worker's next step will be to find that it has lost the shard, whatever happens before."""
    if worker.phase == "opening":
        return not slot.epoch
    if worker.phase in {"covering", "publishing"}:
        return slot.transaction is None
    if worker.phase == "repairing":
        return False
    return worker.expected is not None and worker.expected.token not in tokens


class _Renamed:
    """A state with tokens by rank, and numbers and positions counted from the first move that may still be read."""

    def __init__(self, state: State, tokens: dict[int, int]) -> None:
        self._state = state
        self._tokens = tokens
        log = state.log
        self._read = min(self._lowest(), len(log.moves))
        segments, sequences = list(log.segments), list(log.sequences)
        self._number, self._as_of = 0, log.as_of
        for move in log.moves[: self._read]:
            segments[move.customer] = move.after
            sequences[move.customer] = move.sequence
            self._number = move.number
            self._as_of = (move.activation, move.clock, move.offset)
        self._segments = tuple(segments)
        self._sequences = tuple(sequences)

    def _lowest(self) -> int:
        """Return the lowest position in the output log that any part of the state has."""
        state = self._state
        if state.losses or not state.redis.whole:
            return 0  # a rebuild reads all of it again
        lowest = min([state.redis.head.position, *(old.head.position for old in state.history)])
        if state.old_primary:
            lowest = min(lowest, state.old_primary.head.position)
        if state.late:
            lowest = min(lowest, state.late[0].position)
        for slot in state.slots:
            if slot.worker and slot.worker.expected:
                lowest = min(lowest, slot.worker.expected.position)
        return lowest

    def state(self) -> State:
        """Return the renamed state."""
        old, log = self._state, self._state.log
        moves = tuple(self._move(move) for move in log.moves[self._read :])
        renamed = OutputLog(self._segments, (0,) * len(self._sequences), self._as_of, moves, log.behind, log.letters)
        return State(
            self._redis(old.redis),
            tuple(self._redis(copy) for copy in old.history),
            old.rollbacks,
            renamed,
            self._kafka(old.kafka),
            (self._slot(old.slots[0]), self._slot(old.slots[1])),
            old.clock,
            old.published,
            old.late and (self._head(old.late[0]), self._write(old.late[1])),
            old.old_primary and self._redis(old.old_primary),
            old.begin,
            old.losses,
        )

    def _redis(self, redis: Redis) -> Redis:
        customers = redis.customers
        if self._read:
            customers = tuple(self._customer(number, customer) for number, customer in enumerate(customers))
        return Redis(self._head(redis.head), customers, redis.whole)

    def _head(self, head: ModelRedisHead) -> ModelRedisHead:
        token, offset, position, number, clock, activation, cursor, quiet = head
        token, position, number = self._tokens.get(token, DELETED), position - self._read, number - self._number
        return ModelRedisHead(token, offset, position, number, clock, activation, cursor, quiet)

    def _customer(self, number: int, customer: StoredCustomer) -> StoredCustomer:
        orders, announced, sequence, due = customer
        return StoredCustomer(orders, announced, sequence - self._sequences[number], due)

    def _write(self, write: Write) -> Write:
        customers = tuple(c and self._customer(number, c) for number, c in enumerate(write.customers))
        return Write(self._head(write.head._replace(token=DELETED)), customers)

    def _kafka(self, head: ModelKafkaHead) -> ModelKafkaHead:
        return head._replace(number=head.number - self._number) if self._number else head

    def _move(self, move: LoggedMove) -> LoggedMove:
        if not self._read:
            return move
        sequence, number = move.sequence - self._sequences[move.customer], move.number - self._number
        return move._replace(sequence=sequence, number=number)

    def _transaction(self, sent: SentTransaction) -> SentTransaction:
        return sent._replace(moves=tuple(self._move(move) for move in sent.moves), head=self._kafka(sent.head))

    def _slot(self, slot: Slot) -> Slot:
        sent = slot.transaction and self._transaction(slot.transaction)
        return Slot(slot.worker and self._worker(slot.worker), sent, slot.epoch, slot.cut_off)

    def _worker(self, worker: Worker) -> Worker:
        return Worker(
            worker.phase,
            worker.opened,
            max(worker.end - self._read, 0),
            worker.expected and self._head(worker.expected),
            worker.target and self._kafka(worker.target),
            worker.reported,
            tuple(self._move(move) for move in worker.torn),
            worker.until,
            worker.write and self._write(worker.write),
            worker.unsent and self._transaction(worker.unsent),
            worker.rebuilds,
        )

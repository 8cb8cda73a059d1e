"""Each private part of Faust that is used, the version in which it was read, and that nothing else uses one."""

from __future__ import annotations

import ast
import asyncio
from importlib.metadata import version
from inspect import getsource
from pathlib import Path
from typing import Any

import pytest
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver

from stream.adapters import faust_internals

ROOT = Path(__file__).parents[4]
READ_IN = "0.15.3"
# Class of ours -> Faust's, and what is overridden in it. Read them in the new version before you change READ_IN.
OVERRIDDEN: dict[str, tuple[type, set[str]]] = {
    "_CommittedReader": (driver.AIOKafkaConsumerThread, {"_create_worker_consumer"}),
    "InOrderConsumer": (
        driver.Consumer,
        {"_new_consumer_thread", "_new_offset", "_commit", "_add_gap", "on_buffer_full", "on_buffer_drop"},
    ),
}
FAUST = {"stream/adapters/app.py": {"faust"}, "stream/hosting/faust_launcher.py": {"faust"}}


def test_the_installed_version_is_the_one_that_was_read() -> None:
    assert version("faust-streaming").split(".")[:2] == READ_IN.split(".")[:2]


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_what_is_overridden_is_listed_and_exists(name: str) -> None:
    theirs, methods = OVERRIDDEN[name]
    ours = getattr(faust_internals, name)
    assert issubclass(ours, theirs)
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert {node.name for node in ast.walk(ast.parse(getsource(ours))) if isinstance(node, functions)} == methods
    assert all(callable(getattr(theirs, method)) for method in methods)


def test_what_the_consumer_keeps_of_acknowledgements_exists() -> None:
    assert {"_acked", "_acked_index"} <= set(Consumer.__annotations__)
    assert driver.Transport.Consumer is driver.Consumer


async def test_the_last_commit_gives_up_where_its_thread_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    class EndedThread:
        async def commit(self, offsets: Any) -> bool:
            await asyncio.Event().wait()
            raise AssertionError(offsets)

    monkeypatch.setattr(faust_internals, "LAST_COMMIT_S", 0.01)
    consumer: Any = object.__new__(faust_internals.InOrderConsumer)
    consumer._thread = EndedThread()
    for stopping in (True, False):
        monkeypatch.setattr(faust_internals.InOrderConsumer, "should_stop", stopping)
        commit = asyncio.create_task(consumer._commit({}))
        done, _ = await asyncio.wait({commit}, timeout=5 if stopping else 0.1)
        assert bool(done) is stopping
        assert not done or commit.result() is False
        commit.cancel()


def test_no_other_module_imports_a_part_of_faust() -> None:
    found: dict[str, set[str]] = {}
    for package in ("segmentation", "stream", "trainer", "examples"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if faust := {name for name in names if name.split(".")[0] == "faust"}:
                    found.setdefault(path.relative_to(ROOT).as_posix(), set()).update(faust)
    assert found.pop("stream/adapters/faust_internals.py") == {"faust.transport.drivers"}
    assert found == FAUST

"""A function with a fault, compiled where the function lives: for tests that others must catch it."""

from __future__ import annotations
import __future__

import inspect
import textwrap
from types import FunctionType
from typing import Any, NamedTuple


class Edit(NamedTuple):
    """In this function, `old` (which must be there) becomes `new`."""

    function: Any
    old: str
    new: str


def mutated(edit: Edit) -> FunctionType:
    """The function with the edit in its source, without its decorators."""
    source = textwrap.dedent(inspect.getsource(edit.function))
    source = source[source.index("def ") :]
    assert source.count(edit.old) == 1, (
        f"{edit.function.__qualname__} holds {edit.old!r} {source.count(edit.old)} times"
    )
    found: dict[str, Any] = {}
    code = compile(source.replace(edit.old, edit.new), "mutant", "exec", flags=__future__.annotations.compiler_flag)
    exec(code, edit.function.__globals__, found)
    (function,) = found.values()
    assert isinstance(function, FunctionType)
    return function

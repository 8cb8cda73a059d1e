"""The names of the recipes. Without heavy imports, because every start of `segtrainer` reads this."""

from __future__ import annotations

from typing import Final, Literal, get_args

RecipeName = Literal["rhythm", "rfm", "textbook", "tutorial"]

NAMES: Final[tuple[RecipeName, ...]] = get_args(RecipeName)
# The name of the recipe that trained by default before `rhythm`. It says nothing any more, so it isn't accepted.
_FORMER_DEFAULT: Final = "default"


def refusal(name: str) -> str | None:
    """Return why a name is no recipe; None: it is one.

    >>> refusal("rfm") is None, refusal("best")
    (True, "'best' is no recipe: give rhythm, rfm, textbook or tutorial")
    """
    if name in NAMES:
        return None
    *most, last = NAMES
    names = f"{', '.join(most)} or {last}"
    if name == _FORMER_DEFAULT:
        return "the recipe 'default' is called rfm now: give rfm to train as before, or rhythm, which trains by default"
    return f"{name!r} is no recipe: give {names}"

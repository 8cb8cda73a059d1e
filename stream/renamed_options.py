"""Options under their former names, for one more version: accepted with a note on stderr, absent from --help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from stream.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def accepting(former: Mapping[str, str]) -> type[TyperCommand]:
    """Return a class for `@app.command(cls=…)` that accepts options under former names. `former`: old name to new.

    The names are replaced before the arguments are parsed; the value of another option stays as it is.
    """

    class CommandWithFormerOptions(TyperCommand):
        """A command that replaces the former names of its options."""

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            """Parse the arguments under the present names of the options."""
            present = renamed(args, former, self._values(ctx))
            for old in [was.partition("=")[0] for was, now in zip(args, present, strict=True) if was != now]:
                echo(f"{old} is now {former[old]}; the next version won't accept {old}.", err=True)
            return super().parse_args(ctx, present)

        def _values(self, ctx: Any) -> dict[str, int]:
            """Return how many arguments each option takes as its values."""
            found: dict[str, int] = {}
            for option in self.get_params(ctx):
                takes = 0 if getattr(option, "is_flag", False) or getattr(option, "count", False) else option.nargs
                found |= dict.fromkeys((*option.opts, *option.secondary_opts), takes)
            return found

    return CommandWithFormerOptions


def renamed(args: Sequence[str], former: Mapping[str, str], takes: Mapping[str, int]) -> list[str]:
    """Return the arguments with the former names of options replaced, up to a `--`; an option's values stay.

    `takes`: how many arguments an option takes as its values, by its present names.

    >>> renamed(["--old", "--why", "--old", "--old=1", "--", "--old"], {"--old": "--new"}, {"--why": 1})
    ['--new', '--why', '--old', '--new=1', '--', '--old']
    """
    found: list[str] = []
    values = 0
    for at, arg in enumerate(args):
        if values:
            found.append(arg)
            values -= 1
            continue
        if arg == "--":
            return [*found, *args[at:]]
        name, equals, value = arg.partition("=")
        name = former.get(name, name)
        found.append(f"{name}{equals}{value}")
        values = 0 if equals else takes.get(name, 0)
    return found

"""Options under their former names, for one more version: accepted with a note on stderr, absent from --help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from stream.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def accepting(former: Mapping[str, str]) -> type[TyperCommand]:
    """Return a class for `@app.command(cls=…)` that accepts options under former names. `former`: old name to new.

    The names are replaced before the arguments are parsed, which depends on no detail of Click's or Typer's options.
    """

    class CommandWithFormerOptions(TyperCommand):
        """A command that replaces the former names of its options."""

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            """Parse the arguments under the present names of the options."""
            present = renamed(args, former)
            for name in [arg for arg in args if arg not in present]:
                old = name.partition("=")[0]
                echo(f"{old} is now {former[old]}; the next version won't accept {old}.", err=True)
            return super().parse_args(ctx, present)

    return CommandWithFormerOptions


def renamed(args: Sequence[str], former: Mapping[str, str]) -> list[str]:
    """Return the arguments with the former names of options replaced, up to a `--`.

    >>> renamed(["--old", "--old=1", "x", "--", "--old"], {"--old": "--new"})
    ['--new', '--new=1', 'x', '--', '--old']
    """
    end = args.index("--") if "--" in args else len(args)
    found = []
    for arg in args[:end]:
        name, equals, value = arg.partition("=")
        found.append(f"{former.get(name, name)}{equals}{value}")
    return [*found, *args[end:]]

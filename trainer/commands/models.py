"""`segtrainer list`, `promote` and `rollback`: the published models, and who activated them, when and why."""

from __future__ import annotations

import getpass
import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stream.clock import now_ms
from stream.terminal import echo
from trainer.commands.options import AsJson, By, Reason, settings_and_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.registry.contents import ActivationRecord, Signature, TopicContents
    from trainer.registry.publish import PublicationResult

# Wide enough for every column where the output isn't a terminal.
_WIDTH: Final = 160


def _user() -> str:
    """Return the name of this process's user; "unknown" where the system has none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("list")(list_models)
    app.command("promote")(promote_model)
    app.command("rollback")(roll_model_back)


def list_models(*, as_json: AsJson = False) -> None:
    """List all models, and who activated them."""
    from rich.table import Table

    from stream.consoles import console
    from trainer.registry.publish import read_models

    found = read_models(settings_and_log())
    rows = rows_of(found)
    if as_json:
        now = found.active
        history = [_plain(past) for past in found.history]
        current = {"active": now.version if now else None, "candidate": found.candidate}
        echo(json.dumps(current | {"versions": rows, "activations": history}))
        return
    table = Table(title="Models, in the order of their publication")
    for heading in ("version", "mark", "activation", "when", "who", "why"):
        table.add_column(heading, overflow="fold")
    for heading in ("k", "customers"):
        table.add_column(heading, justify="right")
    for row in rows:
        activation = "-" if row["activation"] is None else str(row["activation"])
        cells = [str(row[name]) for name in ("version", "mark")], [str(row[name]) for name in ("at", "by", "reason")]
        table.add_row(*cells[0], activation, *cells[1], str(row["k"]), f"{row['customers']:,}")
    console(_WIDTH).print(table, markup=False)


def rows_of(found: TopicContents) -> list[dict[str, Any]]:
    """Return a row for each version: its last activation, or else its publication, and facts of its training."""
    import msgspec

    last = {past.version: past for past in found.history}
    rows = []
    for name, version in found.versions.items():
        past = last.get(name)
        marks = [
            mark
            for mark, it in (("active", found.active and found.active.version), ("candidate", found.candidate))
            if it == name
        ]
        signature = past.signature if past else version.signature
        training = version.model.training
        rows.append(
            {
                "version": name,
                "parent": version.model.parent,
                "mark": ", ".join(marks),
                "activation": past.activation if past else None,
                "rollback": bool(past and past.rollback),
                **msgspec.to_builtins(signature),
                "published_at": version.signature.at,
                "published_by": version.signature.by,
                "k": training.k,
                "customers": training.customers,
                "as_of": training.as_of.isoformat(),
                "forced": training.forced,
            }
        )
    return rows


def promote_model(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Version as `segtrainer list` shows it.")],
    *,
    reason: Reason = "",
    by: By = None,
    expect_active: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            help="Activate only if this version is active until then ('none': no model). Default: the version that is "
            "active when the command starts.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Activate a published model.

    All workers score their customers with it from then on, and move those whose segment changes.
    """
    from trainer.registry.publish import promote

    expected = "" if expect_active == "none" else expect_active
    settings = settings_and_log()
    _change(lambda: promote(settings, version, _signed(by, reason), expected=expected), "promoted", as_json=as_json)


def roll_model_back(
    version: Annotated[
        str | None,
        typer.Argument(metavar="[VERSION]", help="Default: the model that was active before.", show_default=False),
    ] = None,
    *,
    reason: Reason = "",
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Activate an earlier model again.

    Customers move as with any other change of the model.
    """
    from trainer.registry.publish import roll_back

    settings = settings_and_log()
    _change(lambda: roll_back(settings, version, _signed(by, reason)), "rolled back", as_json=as_json)


def _signed(by: str | None, reason: str) -> Signature:
    from trainer.registry.contents import Signature

    return Signature.now(by or _user(), now_ms(), reason)


def _change(change: Callable[[], PublicationResult], outcome: str, *, as_json: bool) -> None:
    done = change()
    if as_json:
        echo(json.dumps({"outcome": outcome, "version": done.version, "activation": done.number}))
    else:
        echo(f"{outcome}: {done.version} is active as activation {done.number}")


def _plain(past: ActivationRecord) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(past)
    return {**{name: value for name, value in plain.items() if name != "signature"}, **plain["signature"]}

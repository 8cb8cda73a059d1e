"""The checker's own reading of a rule table (version 2): out of the YAML, by docs/how-to/write-rules.md alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Final
from zoneinfo import ZoneInfo

import yaml

DAY_MS: Final = 86_400_000
_UNITS: Final = {"m": 60_000, "h": 3_600_000, "d": DAY_MS, "w": 7 * DAY_MS}
_READ: Final = {"from", "to", "cause", "rfm", "first_time"}  # the conditions that this reading knows
_LOOK_MS: Final = 15 * 60_000  # all zones and hours of these tests are whole quarters

RuleRow = dict[str, Any]  # of the YAML
Change = dict[str, Any]  # a segment.changed


def span_ms(text: str) -> int:
    """Return a duration like 30m, 3h, 7d or 2w."""
    return int(text[:-1]) * _UNITS[text[-1]]


def millis(text: str) -> int:
    """Return an instant."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def local(at_ms: int, zone: str) -> datetime:
    """Return the local time of an instant."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(ZoneInfo(zone))


class ReadTable:
    """A rule table."""

    def __init__(self, text: str) -> None:
        """Read the YAML. Raises ValueError where rules have conditions that this reading doesn't know."""
        self._content: dict[str, Any] = yaml.safe_load(text)
        rules: list[RuleRow] = self._content["rules"]
        if unknown := {part for rule in rules for part in rule["when"]} - _READ:
            raise ValueError(f"the checker can't read these conditions: {sorted(unknown)}")
        self.rules = {str(rule["name"]): rule for rule in rules}
        self.caps: list[dict[str, Any]] = self._content.get("caps", [])
        groups: dict[str, list[RuleRow]] = {}
        for rule in rules:
            groups.setdefault(rule.get("group", "main"), []).append(rule)
        self._groups = [sorted(own, key=lambda rule: -int(rule.get("priority", 0))) for own in groups.values()]

    def matching(self, change: Change) -> Iterator[list[RuleRow]]:
        """Yield of each group the rules that a move matches, in their order."""
        for group in self._groups:
            yield [rule for rule in group if _matches(rule["when"], change)]

    def zone(self, rule: RuleRow) -> str:
        """Return the zone of customers whose own isn't known."""
        return str(rule.get("time_zone", self._content.get("time_zone", "UTC")))

    def consent(self, rule: RuleRow) -> str:
        """Return whether a channel must be granted or only not be denied: required, or unless_denied."""
        return str(rule.get("consent", self._content.get("consent", "unless_denied")))

    def is_valid(self, rule: RuleRow, at_ms: int) -> bool:
        """Return whether a rule acts on the day of an instant."""
        days, day = rule.get("valid", {}), local(at_ms, self.zone(rule)).date()
        return bool(days.get("from", day) <= day <= days.get("until", day))

    def is_quiet(self, rule: RuleRow, at_ms: int, zone: str) -> bool:
        """Return whether a rule's action waits at an instant, for a customer in a zone."""
        own = rule.get("quiet_hours", None if rule.get("transactional") else self._content.get("quiet_hours"))
        if own in (None, "none"):
            return False
        at, begin, end = f"{local(at_ms, zone):%H:%M}", str(own["from"]), str(own["until"])
        return begin <= at < end if begin < end else at >= begin or at < end

    def is_end_of_quiet(self, rule: RuleRow, at_ms: int, until_ms: int, zone: str) -> bool:
        """Return whether quiet hours that hold at an instant last until another one, and no longer."""
        looks = [at_ms, *range(at_ms - at_ms % _LOOK_MS + _LOOK_MS, until_ms, _LOOK_MS), until_ms - 1]
        return all(self.is_quiet(rule, at, zone) for at in looks) and not self.is_quiet(rule, until_ms, zone)

    def held_out_by(self, rule: RuleRow, customer: bytes, at_ms: int) -> str | None:
        """Return the hold-out that a customer belongs to at an instant; None: to none."""
        if rule.get("transactional"):
            return None
        found = self._content.get("holdouts", {})
        period = _period(local(at_ms, str(self._content.get("time_zone", "UTC"))), found.get("rotate", "never"))
        shares = {"global": found.get("global")}
        shares |= {f"tag:{tag}": found.get("tags", {}).get(tag) for tag in rule.get("tags", ())}
        shares[f"campaign:{rule['name']}"] = rule.get("holdout")
        for scope, share in shares.items():
            parts = (str(found.get("salt", "")).encode(), scope.encode(), period.encode(), customer)
            drawn = blake2b(b"".join(len(p).to_bytes(4, "big") + p for p in parts), digest_size=8).digest()
            if share is not None and int.from_bytes(drawn, "big") < Decimal(str(share)) * 2**64:
                return scope
        return None

    def budget(self, rule: RuleRow, partition: int, partitions: int) -> int | None:
        """Return how many actions a day a shard may send; None: any number."""
        if "budget" not in rule or rule.get("transactional"):
            return None
        part, rest = divmod(int(rule["budget"]["per_day"]), partitions)
        return part + (partition < rest)

    def day(self, rule: RuleRow, at_ms: int) -> date:
        """Return the day of an instant in a rule's zone."""
        return local(at_ms, self.zone(rule)).date()


def _period(at: datetime, rotate: str) -> str:
    quarter = f"{at.year}-Q{(at.month + 2) // 3}"
    return {"never": "", "month": f"{at:%Y-%m}", "quarter": quarter, "year": f"{at:%Y}"}[rotate]


def _matches(when: dict[str, Any], change: Change) -> bool:
    if change["cause"] not in when.get("cause", [change["cause"]]):
        return False
    if change["cause"] == "merge" and "cause" not in when:
        return False
    if not all(_is_among(change[part], when.get(part, "*")) for part in ("from", "to")):
        return False
    figures = change.get("rfm")
    return all(
        figures is not None
        and Decimal(str(bounds.get("at_least", "-Infinity"))) <= Decimal(str(figures[name]))
        and Decimal(str(figures[name])) <= Decimal(str(bounds.get("at_most", "Infinity")))
        for name, bounds in when.get("rfm", {}).items()
    )


def _is_among(name: str | None, choices: Any) -> bool:
    if choices == "*":
        return True
    listed = choices if isinstance(choices, list) else [choices]
    begins = [one[:-1] for one in listed if one and one.endswith("*")]
    return name in listed or (name is not None and any(name.startswith(begin) for begin in begins))

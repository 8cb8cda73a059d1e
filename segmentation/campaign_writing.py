"""The events of campaign decisions, as records with their ids and headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import NAMESPACE_URL, uuid5

import msgspec
from msgspec import UNSET

from segmentation.campaign_budget import BudgetState, budget_key
from segmentation.event_text import cloud_headers, iso, uuid5_text
from segmentation.events import encode
from segmentation.output_events import (
    ActionVariables,
    BudgetUsed,
    CampaignAction,
    CampaignBudget,
    CampaignConverted,
    CampaignDecision,
    CampaignScheduled,
    CampaignWithheld,
    KeptBy,
    Money,
    Rfm,
)
from segmentation.step import Output

if TYPE_CHECKING:
    from segmentation.campaign_inputs import ChangedEvent, SeenOrder
    from segmentation.campaign_judging import Suppressed
    from segmentation.campaign_rules import Rule
    from segmentation.campaign_state import CampaignState, Candidate, GoalWatch, Pending

_KINDS: Final = {kind: str(kind.__struct_config__.tag) for kind in CampaignDecision.__args__}
_variables = msgspec.json.Decoder(ActionVariables)


def candidate_variables(rule: Rule, change: ChangedEvent) -> bytes:
    """Return the figures of a move that a rule passes on, as JSON; b"": none."""
    if not rule.then.variables:
        return b""
    assert change.to is not None
    following = change.next
    keep = None if following is None else KeptBy(change.to, following.at)
    rfm = None if change.rfm is None else Rfm(*msgspec.structs.astuple(change.rfm))
    wanted = rule.then.variables
    return encode(
        ActionVariables(
            rfm=rfm if "rfm" in wanted else UNSET,
            before=change.before if "before" in wanted else UNSET,
            next=following if "next" in wanted else UNSET,
            keep=keep if "keep" in wanted else UNSET,
            segment=change.to if "segment" in wanted else UNSET,
        )
    )


class DecisionWriter:
    """Writes the decisions of one deployment. Equal decisions have equal ids."""

    def __init__(self, group: str) -> None:
        """`group`: names the deployment."""
        self._source = f"/segstream/{group}"
        # Below the namespace of the deployment's moves, so that no decision shares an id with a move.
        self._namespace = uuid5(uuid5(NAMESPACE_URL, f"segstream:{group}"), "campaign.action").bytes

    def id_of(self, candidate: Candidate) -> str:
        """Return the id of what becomes of a candidate in the end: its action, or that it is withheld."""
        return self._id(f"{candidate.change_id}:{candidate.campaign}")

    def action(
        self, customer: bytes, candidate: Candidate, tags: tuple[str, ...], state: CampaignState, at: int, rules: str
    ) -> CampaignAction:
        """Return the event of an action."""
        profile = state.facts.profile
        zone, unknown = profile.zone("UTC")
        return CampaignAction(
            **self._common(self.id_of(candidate), customer, candidate, at, rules),
            reason=candidate.reason,
            tags=tags,
            variables=_variables.decode(candidate.variables) if candidate.variables else ActionVariables(),
            language=profile.language.text if profile.language else None,
            time_zone=zone.key if profile.time_zone and not unknown else None,
        )

    def withheld(self, customer: bytes, candidate: Candidate, why: Suppressed, at: int, rules: str) -> CampaignWithheld:
        """Return the event of an action that isn't sent."""
        common = self._common(self.id_of(candidate), customer, candidate, at, rules)
        return CampaignWithheld(**common, reason=why.reason, detail=why.detail)

    def scheduled(self, customer: bytes, pending: Pending, at: int, rules: str) -> CampaignScheduled:
        """Return the event of an action that is held back."""
        candidate, until = pending.candidate, pending.until
        event_id = self._id(f"{candidate.change_id}:{candidate.campaign}:scheduled:{until}")
        common = self._common(event_id, customer, candidate, at, rules)
        return CampaignScheduled(**common, until=iso(until), why=pending.why)

    def converted(self, customer: bytes, watch: GoalWatch, order: SeenOrder, at: int, rules: str) -> CampaignConverted:
        """Return the event of a goal that was reached."""
        event_id = self._id(f"{watch.candidate.change_id}:{watch.candidate.campaign}:converted")
        return CampaignConverted(
            **self._common(event_id, customer, watch.candidate, at, rules),
            action_id=watch.action_id,
            held_out=watch.held_out,
            order_id=order.order_id,
            amount=Money(order.amount.value, order.amount.currency),
            ordered_at=iso(order.at),
            acted_at=iso(watch.acted_at),
        )

    def record(self, customer: bytes, event: CampaignDecision, note: bytes) -> Output:
        """Return the record of a decision. `note`: the state after it."""
        kind = _KINDS[type(event)]
        headers = cloud_headers(kind, event.id, self._source, event.customer_id, event.decided_at or event.occurred_at)
        return Output(customer, encode(event), headers, note)

    def budget(self, partition: int, state: BudgetState, at: int) -> Output:
        """Return the record of the budgets that a shard has used. Its note is their state."""
        event = CampaignBudget(
            id=self._id(f"budget:{partition}:{state.counter}"),
            shard=partition,
            used={name: BudgetUsed(count.day, count.actions) for name, count in sorted(state.used.items())},
            decided_at=iso(at),
        )
        headers = cloud_headers("campaign.budget", event.id, self._source, f"shard {partition}", event.decided_at)
        return Output(budget_key(partition), encode(event), headers, note=state.pack())

    def _common(self, event_id: str, customer: bytes, candidate: Candidate, at: int, rules: str) -> dict[str, Any]:
        return {
            "id": event_id,
            "customer_id": customer.decode(),
            "campaign": candidate.campaign,
            "segment": candidate.segment,
            "action": candidate.action,
            "channel": candidate.channel,
            "change_id": candidate.change_id,
            "occurred_at": iso(candidate.moved_at),
            "decided_at": iso(at),
            "rules": rules,
        }

    def _id(self, name: str) -> str:
        return uuid5_text(self._namespace, name)

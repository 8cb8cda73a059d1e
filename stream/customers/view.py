"""One customer as `segstream customer` shows it: by the scoring step's shards, and by the campaigns'."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stream.customers.campaigns import LOOKED_BACK, CampaignsReport, campaigns_report
from stream.customers.lookup import CustomerReport, CustomerUnknown, customer
from stream.storage.client import redis_client

if TYPE_CHECKING:
    from stream.models.topic import PublishedModels
    from stream.settings import Settings


class CustomerView(NamedTuple):
    """One customer. `report` None: no shard knows an order.

    `campaigns` None: the customer was erased, or all of it is under another id.
    """

    customer_id: str
    report: CustomerReport | None
    campaigns: CampaignsReport | None

    def json(self) -> bytes:
        """Return it as one object: the report's fields, and `campaigns`."""
        fields = {"customer_id": self.customer_id} if self.report is None else msgspec.structs.asdict(self.report)
        return msgspec.json.encode({**fields, "campaigns": self.campaigns})


async def look_up(settings: Settings, published: PublishedModels, customer_id: str, now_ms: int) -> CustomerView:
    """Return all that is known of a customer, and the latest decisions.

    Raises CustomerUnknown where neither step knows the id, CustomerUnreadable, RedisUnreachable.
    """
    try:
        report = await asyncio.to_thread(customer, settings, published, customer_id, now_ms)
    except CustomerUnknown:
        campaigns = await _campaigns(settings, customer_id)
        if campaigns.empty:
            raise
        return CustomerView(customer_id, None, campaigns)
    if report.merged_into is not None:
        return CustomerView(customer_id, report, None)
    if report.erased_at is not None:
        # Decisions of before are still in the log, as `segstream erase` says. A look-up doesn't bring them back.
        since = await _campaigns(settings, customer_id, back=0)
        return CustomerView(customer_id, report, since if any(known.profile for known in since.known) else None)
    return CustomerView(customer_id, report, await _campaigns(settings, customer_id))


async def _campaigns(settings: Settings, customer_id: str, back: int = LOOKED_BACK) -> CampaignsReport:
    with redis_client(settings) as redis:
        return await campaigns_report(redis, settings, customer_id, back=back)

"""An endpoint for webhooks on this machine that behaves as a test says: well, badly, or each in turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks.webhooks import Webhook

SECRET = "whsec_c2Vnc3RyZWFtLXRlc3Qtc2VjcmV0LW9mLTMyLWJ5dGVz"
DROP = 0  # instead of a status: hang up after reading the request


@dataclass(frozen=True)
class ReceivedHook:
    """A request. `status`: of the answer; DROP: none."""

    id: str
    customer: str
    campaign: str
    status: int


@dataclass
class Reply:
    """An answer. `delay_s`: before it."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    delay_s: float = 0.0


Behaviour = Callable[[dict[str, Any], int], Reply]  # of the event, and how often this id has come before


class WebhookReceiver:
    """The server's behaviour, and what it got. The reference verifier checks the signature of every request."""

    def __init__(self, secret: str = SECRET) -> None:
        self.received: list[ReceivedHook] = []
        self.behave: Behaviour = lambda _event, _before: Reply()
        self.url = ""
        self.most_at_once = 0
        self._at_once = 0
        self._verifier = Webhook(secret)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            body = await request.read()
            headers = dict(request.headers)
            event = self._verifier.verify(body, headers)
            id_ = headers["webhook-id"]
            assert id_ == event["id"]
            reply = self.behave(event, sum(r.id == id_ for r in self.received))
            self.received.append(ReceivedHook(id_, event["customer_id"], event["campaign"], reply.status))
            await asyncio.sleep(reply.delay_s)
            if reply.status == DROP:
                assert request.transport is not None
                request.transport.abort()
            return web.Response(status=reply.status or 204, headers=reply.headers, text=reply.body or None)
        finally:
            self._at_once -= 1

    def taken(self) -> list[str]:
        """The ids that were answered with 2xx."""
        return [r.id for r in self.received if 200 <= r.status <= 299]

    def order_of(self, customer: str) -> list[str]:
        """The ids of a customer in the order of their first success."""
        return list(dict.fromkeys(r.id for r in self.received if r.customer == customer and 200 <= r.status <= 299))


@asynccontextmanager
async def webhook_endpoint(port: int = 0, secret: str = SECRET) -> AsyncIterator[WebhookReceiver]:
    """Serve an endpoint on 127.0.0.1 while the block runs."""
    receiver = WebhookReceiver(secret)
    app = web.Application()
    app.router.add_post("/hook", receiver.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    bound = runner.addresses[0][1]
    receiver.url = f"http://127.0.0.1:{bound}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


def action(number: int, customer: str, **others: Any) -> dict[str, Any]:
    """Return an action as the dispatcher publishes them."""
    return {
        "type": "campaign.action",
        "id": f"00000000-0000-5000-8000-{number:012}",
        "customer_id": customer,
        "campaign": "win-back",
        "segment": "Lost",
        "action": "Win-back",
        "channel": "email",
        "tags": ["marketing"],
        "occurred_at": "2026-11-30T12:00:00.000Z",
        **others,
    }


def encoded(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()

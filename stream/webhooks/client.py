"""One attempt to deliver a webhook to an endpoint: signed, bounded in time and size, and without surprises."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import httpx

from stream.errors import SettingsError, causes
from stream.webhooks.answers import EXCERPT, WebhookAnswer, answer_detail
from stream.webhooks.endpoints import Endpoint
from stream.webhooks.network import AddressRefused, CheckedNetwork, CheckedTransport, Resolve
from stream.webhooks.schedule import asked_wait_ms
from stream.webhooks.signing import signed_headers

_MOST_READ_BYTES: Final = 65_536  # of an answer: the rest isn't read, and its connection is closed
_BODY_S: Final = 1.0  # for the body, once the status is here


class WebhookClient:
    """Sends webhooks to one endpoint."""

    def __init__(
        self, endpoint: Endpoint, keys: Sequence[bytes], now_ms: Callable[[], int], *, resolve: Resolve | None = None
    ) -> None:
        """`keys`: each signs. Raises SettingsError where `ca_file` can't be used. Nothing connects yet."""
        self._endpoint = endpoint
        self._keys = keys
        self._now_ms = now_ms
        network = CheckedNetwork(allow_private=endpoint.allow_private, resolve=resolve)
        self._client = httpx.AsyncClient(
            transport=CheckedTransport(network, _tls(endpoint)),
            headers={"user-agent": "segstream", "accept-encoding": "identity", "content-type": "application/json"},
            timeout=None,  # noqa: S113  # the whole attempt has one, below
            follow_redirects=False,
            trust_env=False,  # a proxy would connect for us, to whatever address it likes
        )

    async def send(self, webhook_id: str, body: bytes) -> WebhookAnswer:
        """Make one attempt. Whatever goes wrong is in the answer; only the end of the process is raised."""
        headers = signed_headers(self._keys, webhook_id, self._now_ms() // 1000, body)
        try:
            async with asyncio.timeout(self._endpoint.timeout / 1000):
                request = self._client.build_request("POST", self._endpoint.url, content=body, headers=headers)
                response = await self._client.send(request, stream=True)
        except (TimeoutError, httpx.TimeoutException):
            return WebhookAnswer(None, f"no answer within {self._endpoint.timeout / 1000:g} s", timed_out=True)
        except AddressRefused as error:
            return WebhookAnswer(None, f"{error}; see allow_private")
        except Exception as error:  # noqa: BLE001  # a fault of the HTTP client mustn't end the other endpoints
            return WebhookAnswer(None, _why(error))
        try:
            excerpt = await _beginning(response)
        finally:
            with suppress(Exception):  # the answer is here
                await response.aclose()
        for part in self._endpoint.hidden:  # many a "not found" repeats the path that it was asked for
            excerpt = excerpt.replace(part, "…")
        wait = asked_wait_ms(response.headers.get("retry-after"), self._now_ms())
        return WebhookAnswer(
            response.status_code, answer_detail(response.status_code, "" if response.is_success else excerpt), wait
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


async def _beginning(response: httpx.Response) -> str:
    """Return the beginning of an answer's body. The status counts, also where the body is torn or never ends.

    More than the beginning is read, within limits: a connection can be used again only behind the whole answer.
    """
    found, read = b"", 0
    with suppress(Exception):
        async with asyncio.timeout(_BODY_S):
            async for part in response.aiter_raw():
                found = (found + part)[: 4 * EXCERPT]
                read += len(part)
                if read > _MOST_READ_BYTES:
                    break
    return found.decode(errors="replace")


def _why(error: Exception) -> str:
    """Return the reason of a failed attempt: the innermost error that says something, without the URL."""
    said = [str(cause) for cause in causes(error) if str(cause)]
    return f"no answer: {' '.join((said[-1] if said else type(error).__name__).split())[:EXCERPT]}"


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=endpoint.ca_file)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it holds no certificate (PEM)"
        raise SettingsError(
            f"endpoint {endpoint.name!r}: ca_file {endpoint.ca_file} can't be used: {why}.",
            hint="Give a PEM file of the CAs to trust.",
        ) from None

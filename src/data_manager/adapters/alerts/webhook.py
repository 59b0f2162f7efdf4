"""Alerts by HTTP: a POST of JSON with `text`, as Slack, Mattermost and their like read it, and with all facts beside.

    {"text": "[critical] hole um.candle.BTCUSDT.1m: …", "alert": {"id", "event", "severity", …}}

The address is a secret as a whole: who knows it may write there. Messages and errors name its host alone.
"""

from typing import Final
from urllib.parse import urlsplit

import httpx2
from msgspec import json

from data_manager.adapters.alerts.facts import facts_of
from data_manager.domain.alert import Message
from data_manager.domain.errors import Rejected, Unavailable

_TIMEOUT_S: Final = 5.0
_SHOWN_MAX: Final = 120  # bytes of an answer that are told
_AGAIN: Final = (408, 425, 429)


class Webhook:
    """See Channel. Opens a connection for each message: they are few and far between."""

    name = "webhook"

    def __init__(self, url: str, environment: str) -> None:
        self._url = url
        self._environment = environment
        parts = urlsplit(url)
        self.shown = f"{parts.scheme}://{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")

    def __repr__(self) -> str:
        return f"Webhook({self.shown})"

    async def send(self, message: Message) -> None:
        """See Channel.send. Redirects are not followed: the address is to be the right one."""
        text = message.line.replace("<", "‹").replace(">", "›")  # between angles Slack reads commands
        body = json.encode({"text": text, "alert": facts_of(message, self._environment)})
        headers = {"Content-Type": "application/json", "Idempotency-Key": message.id}
        try:
            async with (
                httpx2.AsyncClient(timeout=_TIMEOUT_S) as client,
                client.stream("POST", self._url, content=body, headers=headers) as answer,
            ):
                if not answer.is_success:
                    self._refuse(answer, await _beginning(answer))
        except httpx2.InvalidURL:
            raise Rejected(f"{self.shown}: the address cannot be used") from None
        except httpx2.HTTPError as error:
            raise Unavailable(f"{self.shown} {_in_words(error)}") from None  # the cause would show the address

    def _refuse(self, answer: httpx2.Response, said: str) -> None:
        why = f"{self.shown} answered {answer.status_code}" + (f": {said}" if said else "")
        if answer.status_code in _AGAIN or answer.status_code >= 500:
            raise Unavailable(why, retry_after_s=_seconds(answer.headers.get("retry-after", "")))
        raise Rejected(why)


async def _beginning(answer: httpx2.Response) -> str:
    """The first bytes of the body, on one line."""
    said = b""
    async for chunk in answer.aiter_bytes(_SHOWN_MAX):
        said += chunk
        if len(said) >= _SHOWN_MAX:
            break
    return " ".join(said[:_SHOWN_MAX].decode("utf-8", "replace").split())


def _seconds(text: str) -> float:
    """Of a Retry-After; 0 where it gives none that we read."""
    return min(float(text), 3_600.0) if text.isascii() and text.isdigit() else 0.0


def _in_words(error: httpx2.HTTPError) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "did not answer in time"
    if isinstance(error, httpx2.ConnectError):
        return "cannot be reached"
    return f"broke off ({type(error).__name__})"

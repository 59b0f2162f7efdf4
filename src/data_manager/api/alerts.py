"""Alerts: what fires, what was sent, and what did not arrive."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.requests import Request

from data_manager.api.asked import series_id_of, words_of
from data_manager.api.errors import REFUSALS
from data_manager.api.listing import Pagination, part_of, part_words
from data_manager.api.routing import Endpoint, Reply, answered, asked_by
from data_manager.domain.errors import BadQuery
from data_manager.ports.alerts import AlertStore
from data_manager.services.alerting.telling import alert_facts, channel_facts, message_facts

_STATES: Final[Mapping[str, bool | None]] = {"firing": True, "resolved": False, "all": None}
_Time = Annotated[str | None, Field(examples=["2023-04-05T00:00:00.000Z"])]


class AlertFact(BaseModel):
    """One alert: alarms of one kind about one series, or about one stream."""

    id: str
    state: Literal["firing", "resolved"]
    kind: Annotated[str, Field(description="A kind of finding, or health.", examples=["hole"])]
    severity: Annotated[str, Field(examples=["warning", "critical"])]
    series: str | None
    stream: str | None
    text: str
    count: Annotated[int, Field(description="Findings or holes it stands for.")]
    since: _Time
    fired: _Time
    resolved: _Time
    told: Annotated[str | None, Field(description="When a message about it was made last.")]
    untold: Annotated[str | None, Field(description="What happened and waits for the next rollup.")]
    episode: Annotated[int, Field(description="So often it fired.")]
    evidence: dict[str, Any]


class ChannelFact(BaseModel):
    """One way by which messages leave, over the last thousand of them."""

    name: Annotated[str, Field(examples=["webhook"])]
    to: Annotated[str | None, Field(description="Where it leads, without credentials; null: not configured.")]
    sent: int
    waiting: Annotated[int, Field(description="Messages that will be tried (again).")]
    given_up: Annotated[int, Field(description="Messages that nobody tries to deliver any more.")]
    last_sent: _Time
    error: Annotated[str | None, Field(description="Of the newest message that was not delivered.")]


class Alerts(BaseModel):
    """A page of alerts, the newest fired first, and how the channels do."""

    data: list[AlertFact]
    channels: list[ChannelFact]
    pagination: Pagination


class DeliveryFact(BaseModel):
    """What became of a message on one channel."""

    state: Literal["sent", "waiting", "given_up"]
    attempts: int
    due_ms: int | None
    sent_ms: int | None
    error: str | None


class MessageFact(BaseModel):
    """One message; a rollup is about many alerts."""

    id: str
    at: str
    event: Annotated[str, Field(description="firing, worse, more, resolved or rollup.")]
    kind: str
    severity: str
    alert: str | None
    series: str | None
    line: Annotated[str, Field(description="All of it in one line of words.")]
    deliveries: dict[str, DeliveryFact]


class Messages(BaseModel):
    """A page of messages, the newest first."""

    data: list[MessageFact]
    pagination: Pagination


def alert_routes(alerts: AlertStore, channels: Mapping[str, str], market: str) -> list[APIRoute]:
    """/alerts and /alerts/messages. channels: where each of ours leads, by name."""

    async def standing(request: Request) -> Reply:
        given = words_of(request, "state", "kind", "series", "limit", "offset")
        part = part_of(given)
        state = given.get("state", "firing")
        if state not in _STATES:
            raise BadQuery("state", state[:64], f"must be one of {' '.join(_STATES)}")
        found, total = await alerts.alerts(
            limit=part.limit,
            offset=part.offset,
            firing=_STATES[state],
            kind=given.get("kind"),
            series=series_id_of(given, market),
        )
        listed = part.listed([alert_facts(one) for one in found], total)
        return answered({**listed, "channels": await channel_facts(alerts, channels)})

    async def messages(request: Request) -> Reply:
        part = part_of(words_of(request, "limit", "offset"))
        found, total = await alerts.messages(limit=part.limit, offset=part.offset)
        return answered(part.listed([message_facts(one) for one in found], total))

    return [
        Endpoint(
            "/alerts", standing, name="alerts", operation_id="get_alerts", tags=["truth"],
            summary="What fires now, and whether messages arrive.",
            description="`state`: firing (unless said otherwise), resolved or all.",
            responses={200: {"model": Alerts}, **REFUSALS},
            openapi_extra={"parameters": [
                asked_by("state", "firing"), asked_by("kind", "hole"), asked_by("series", "um.candle.BTCUSDT.1m"),
                *part_words(),
            ]},
        ),
        Endpoint(
            "/alerts/messages", messages, name="alert_messages", operation_id="get_alert_messages", tags=["truth"],
            summary="What was sent, channel by channel, and what was not.",
            responses={200: {"model": Messages}, **REFUSALS},
            openapi_extra={"parameters": part_words()},
        ),
    ]  # fmt: skip

"""Where the venue says what one of our columns holds: the price of a trade is data.p, the high of a candle data.k.h.

For the dead letters of rows that decoded well and then broke a rule: whoever opens the payload finds the field.
"""

from functools import lru_cache
from typing import Any, Final

from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.json import Decoder as JsonDecoder

from data_manager.adapters.binance import wire_words as words
from data_manager.domain import events
from data_manager.domain.events import Event


def path_of(event: Event, column: str, payload: bytes) -> str:
    """The path of the field a column was read from, as the decoder names fields. The event came out of the payload.

    A column that stands nowhere in the message (it was worked out from others) keeps our name.
    """
    letter = _LETTERS[type(event)].get(column)
    if column == "event_ms":
        letter = _BY_CLOCK.get(getattr(event, "clock", "venue"), letter)
    if letter in (None, "timestamp"):
        return letter or column
    where = _where(payload)
    return f"{where}.{letter}" if where else letter


_DEEPER: Final[dict[Any, str]] = {words.WireCandle: "k.", words.WireLiquidation: "o."}


def _letters(kind: Any) -> dict[str, str]:
    deeper = _DEEPER.get(kind, "")
    named = zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)
    found = {column: f"{deeper}{letter}" for column, letter in named if not letter.startswith("(")}
    return found | ({"event_ms": "E"} if deeper else {})  # stands one level above


_LETTERS: Final[dict[type, dict[str, str]]] = {kind: _letters(kind) for kind in words.EVENTS}
_LETTERS[words.WireFundingRate]["slot_ms"] = "fundingTime"
_LETTERS[events.Depth] = _LETTERS[words.WireDepthUpdate]  # a whole book that came as a depthUpdate

_BY_CLOCK: Final = {"publisher": "timestamp", "ours": None}  # where events that name no time of their own have theirs


class _Frame(Struct):
    data: Raw | UnsetType = UNSET
    stream: Raw | UnsetType = UNSET
    message_id: Raw | UnsetType = UNSET


_frame = JsonDecoder(_Frame)


@lru_cache(maxsize=8)  # many rows of one array may be refused; a payload has up to a megabyte
def _where(payload: bytes) -> str:
    """Where in the message its rows stand: "", "data", "[]" or "data[]"."""
    if payload.lstrip().startswith(b"["):
        return "[]"
    frame = _frame.decode(payload)
    if frame.data is UNSET or frame.stream is frame.message_id is UNSET:
        return ""
    return "data[]" if bytes(frame.data).startswith(b"[") else "data"

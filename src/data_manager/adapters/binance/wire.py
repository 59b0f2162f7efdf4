"""The venue's messages as events: bytes in, Event | Rejected | Ignored out. Pure: no I/O, no clock, never raises.

Takes the publisher's envelope ({stream, data, timestamp, ...}), combined frames ({stream, data}), bare messages, and
arrays of rows in any of these. Two paths, one meaning: nearly every message is one typed decode that already is the
event (wire_words.py, wire_books.py); whatever that does not take gets the closer look (wire_precise.py).
"""

import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, Union

from msgspec import NODEFAULT, DecodeError, Raw, Struct, defstruct
from msgspec.json import Decoder as JsonDecoder
from msgspec.structs import replace

from data_manager.adapters.binance import wire_books as books
from data_manager.adapters.binance import wire_precise as precise
from data_manager.adapters.binance import wire_words as words
from data_manager.adapters.binance.wire_words import Finish, Place
from data_manager.domain.dataset import MARKETS, Dataset
from data_manager.domain.datasets import BY_EVENT
from data_manager.domain.errors import BadSetting, Rejected, Undecodable, UnknownKind
from data_manager.domain.events import Event, Ignored, Outcome
from data_manager.domain.symbols import is_symbol

__all__ = ["DATASET_OF", "LABELLED", "Decoder", "Ignored", "Outcome", "dataset_of", "trace_parent"]

MAX_BYTES = 1 << 20  # the venue's largest frame, all mark prices, has 133 KB
MAX_ROWS = 5_000  # of one array; the venue's longest has about 750

DATASET_OF: dict[type, Dataset] = {**BY_EVENT, **{kind: BY_EVENT[kind.__mro__[1]] for kind in words.EVENTS}}
"""The dataset of every class of event: the domain's own, and those the decoder hands out."""

LABELLED: frozenset[type] = frozenset((words.WireLabelledBook,))
"""Classes of events whose symbol was read off the label of a stream, not off the message."""


def dataset_of(event: Event) -> Dataset:
    """The dataset that takes the event."""
    return DATASET_OF[type(event)]


class Decoder:
    """Decodes messages of one market (um, cm or spot). Rows of another are ignored if they say so, else rejected.

    shared: other services send on the subject too (it is a wildcard), so objects that are no market data are ignored.
    On a subject of its own nothing else is expected: there they are rejected, and a publisher who wraps its events
    anew is noticed.
    """

    def __init__(self, market: str = "um", *, shared: bool = False) -> None:
        if market not in MARKETS:
            raise BadSetting("MARKET", market, f"must be one of {' '.join(MARKETS)}")
        self._market = market
        self._shared = shared
        self._ours = lru_cache(maxsize=65_536)(partial(is_symbol, market=market))
        self._finish: dict[type, Finish] = {
            words.WireKline: words.finish_kline,
            words.WireMarkPrice: words.finish_mark_price,
            words.WireFundingRate: words.finish_funding_rate,
            words.WireForceOrder: words.finish_force_order,
            words.WireDepthUpdate: partial(books.finish_depth_update, market=market),
            words.WireDepthText: partial(books.finish_depth_text, market=market),
            words.WireBook: books.finish_book,
            words.WireLabelledBook: books.finish_labelled_book,
            words.WireSpotBookTicker: books.finish_spot_book_ticker,
        }  # the other kinds are events as they are

    def __call__(self, payload: bytes, received_ms: int) -> list[Outcome]:
        """What the message says: one outcome, or one per row of an array. Never an empty list; nothing is raised.

        received_ms: UTC milliseconds of our clock, used where neither the venue nor the publisher names a time.
        """
        if len(payload) > MAX_BYTES:
            return [Undecodable(f"{len(payload)} bytes: a market message has at most {MAX_BYTES}")]
        try:
            if not payload.isascii():
                payload.decode()  # JSON is UTF-8 all through, also in the fields nobody reads
            event = self._typed(payload, received_ms)
        except UnicodeDecodeError as error:
            return [Undecodable(f"not UTF-8: {error}")]
        except (DecodeError, RecursionError):
            event = None  # the closer look finds out why
        return self._look_closer(payload, received_ms) if event is None else [event]

    def _typed(self, payload: bytes, received_ms: int) -> Event | None:
        """The event by one typed decode; None where more is to be asked (an array, another market, a broken field).

        The first bytes choose which decoder is tried; they decide nothing else.
        """
        if payload.find(b'"e":', 0, _HEAD_BYTES) >= 0:
            read_frame, read_row = _TAGGED
        elif payload.find(b'"lastUpdateId":', 0, _HEAD_BYTES) >= 0:
            read_frame, read_row = _BOOK
        else:
            read_frame, read_row = _BOOK_TICKER
        frame = read_frame(payload) if payload.startswith(b'{"stream":') else None
        row = read_row(payload) if frame is None else frame.data
        if row.__class__ is list:
            return None
        finish = self._finish.get(row.__class__)
        if finish is None:  # the fast path: the row is the event
            event: Event = row
            return event if self._ours(event.symbol) else None
        if frame is None:
            place = Place(received_ms=received_ms)
        else:
            place = Place(frame.label, "data", getattr(frame, "sent", None), received_ms)
        outcome = finish(row, place)
        return outcome if isinstance(outcome, Event) and self._ours(outcome.symbol) else None

    def _look_closer(self, payload: bytes, received_ms: int) -> list[Outcome]:
        try:
            return self._outcomes(_RAW.decode(payload), Place(received_ms=received_ms))
        except RecursionError:
            return [Undecodable("nested too deep for a market message")]
        except DecodeError as error:
            return [Undecodable(f"not JSON: {error}")]

    def _outcomes(self, message: Raw, place: Place) -> list[Outcome]:
        start = bytes(message).lstrip()[:1]
        if start == b"[":
            return self._rows(message, replace(place, where=f"{place.where}[]"))
        if start != b"{":
            where = place.where or None
            return [UnknownKind(f"{where or 'message'}: neither a JSON object nor an array of such", field=where)]
        row = _ROW.decode(message)
        if "data" in row and row.keys() & _FRAME_WORDS and not place.where:
            return self._outcomes(row["data"], precise.place_of(row, place.received_ms))
        return [self._outcome(row, place)]

    def _rows(self, message: Raw, place: Place) -> list[Outcome]:
        """Every row on its own: a broken one does not spoil the others."""
        rows = _RAWS.decode(message)
        if not rows:
            return [Ignored("empty")]
        if len(rows) > MAX_ROWS:
            return [Undecodable(f"{place.where}: {len(rows)} rows, and a market message has at most {MAX_ROWS}")]
        if not any(map(_is_object, rows)):
            return [UnknownKind(f"{place.where}: rows that are no JSON objects", field=place.where)]
        return [self._row(row, place) for row in rows]

    def _row(self, raw: Raw, place: Place) -> Outcome:
        if not _is_object(raw):
            return UnknownKind(f"{place.where}: a row that is no JSON object", field=place.where)
        return self._outcome(_ROW.decode(raw), place)

    def _outcome(self, row: precise.Row, place: Place) -> Outcome:
        found = precise.read(row, place, self._market)
        if found == precise.FOREIGN and not self._shared:
            return UnknownKind(f"{place.where or 'message'}: neither e nor the shape says what it is")
        finish = self._finish.get(found.__class__)
        outcome: Outcome = finish(found, place) if finish else found
        if isinstance(outcome, Rejected):
            outcome.stream, outcome.series = precise.whose(row, place, self._market)
        return outcome


# --- readers

_HEAD_BYTES = 160  # envelope and combined frames show the first field of their row within these
_FRAME_WORDS = frozenset(("stream", "message_id"))
_RAW = JsonDecoder(Raw)
_RAWS = JsonDecoder(list[Raw])
_ROW = JsonDecoder(precise.Row)
_Readers = tuple[Callable[[bytes], Any], Callable[[bytes], Any]]


def _pair(row: Any, **more: tuple[Any, Any]) -> _Readers:
    """Decoders of a frame that holds such a row, and of the bare row."""
    columns = [("data", row, NODEFAULT), *((name, *column) for name, column in more.items())]
    frame = defstruct("Frame", columns, module=__name__, rename={"label": "stream", "sent": "timestamp"}, gc=False)
    return JsonDecoder(frame).decode, JsonDecoder(row).decode


_LABEL = (words.Label, "")
_TAGGED = _pair(Union[(*words.QUICK, list[Raw])], label=_LABEL)  # every tagged kind names its own time
_BOOK = _pair(words.WireLabelledBook, label=_LABEL, sent=(datetime | None, None))
_BOOK_TICKER = _pair(words.WireSpotBookTicker, label=_LABEL, sent=(datetime | None, None))


def _is_object(raw: Raw) -> bool:
    return bytes(raw).startswith(b"{")


# --- trace context


def trace_parent(payload: bytes) -> str | None:
    """The W3C traceparent in an envelope, under its present or its older key; None if there is none. Never raises."""
    if b'"_otel_trace_' not in payload or len(payload) > MAX_BYTES:
        return None
    try:
        carriers = _CARRIERS.decode(payload)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return None  # telemetry never stops data: what is wrong with the message, the decoder says
    for carrier in (carriers._otel_trace_context, carriers._otel_trace_headers):
        parent = carrier.get("traceparent") if isinstance(carrier, dict) else None
        if isinstance(parent, str) and _TRACE_PARENT.fullmatch(parent):
            return parent
    return None


class _Carriers(Struct):
    _otel_trace_context: Any = None
    _otel_trace_headers: Any = None


_CARRIERS = JsonDecoder(_Carriers)
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

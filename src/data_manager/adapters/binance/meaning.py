"""What an answer of the venue that is no data means: which of our errors, and when to ask again. Pure."""

import re
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from data_manager.adapters.binance.http import Answer
from data_manager.domain.errors import BadQuery, BadSetting, DataManagerError, NotFound, Unavailable, Undecodable
from data_manager.domain.time import DAY_MS, MINUTE_MS

T = TypeVar("T")

_BAN_MS: Final = 2 * MINUTE_MS  # the shortest there is, for a ban that names no end
_LONGEST_MS: Final = 3 * DAY_MS  # the longest there is: whoever names a later end is asked again by then
_LONG_S: Final = 300.0  # for what passes, but not soon
_BANNED_UNTIL = re.compile(r"banned until (\d{10,16})")
_UNKNOWN: Final = (-1121, -1122, -4144)  # symbol or pair: of delisted ones too
_BEHIND_THE_WALL: Final = -4166
_OUR_FAULT: Final = {  # by the venue's code: which of our fields, and what would be valid
    -1120: ("period", "must be an interval that the venue has"),
    -4088: ("end", "lies too far from start for one request"),
    -2014: ("BINANCE_API_KEY", "must be a key of the venue"),
    -2015: ("BINANCE_API_KEY", "must be a key that may read market data from this address"),
}


class _Told(Struct):
    code: int = 0
    msg: str = ""


def halted_until_ms(answer: Answer, now_ms: int, window_end_ms: int) -> int | None:
    """Until when the venue wants no request at all; None: it said nothing of the kind.

    A ban names its end in the text; Retry-After may be there or not; else the window that was overdrawn has to pass.
    """
    if answer.status not in (418, 429):
        return None
    named = _BANNED_UNTIL.search(_told(answer).msg)
    ends = [int(named[1])] if named else []
    seconds = _retry_after_s(answer)
    if seconds is not None:
        ends.append(now_ms + round(seconds * 1_000))
    until_ms = max(ends, default=now_ms + _BAN_MS if answer.status == 418 else window_end_ms)
    return min(until_ms, now_ms + _LONGEST_MS)


def error_of(answer: Answer, request: str, setting: str, address: str) -> DataManagerError | None:
    """The error an answer stands for, 429 and 418 aside; None for a good one.

    setting: the name of the variable that holds the address which was asked.
    """
    if answer.status == 403:
        return Unavailable(f"{request}: refused by the venue's firewall (403)", retry_after_s=_LONG_S)
    if answer.is_page and answer.status < 300:  # 202: a challenge for browsers
        return Unavailable(f"{request}: a page instead of an answer ({answer.status})", retry_after_s=_LONG_S)
    if answer.status == 200:
        return None
    told = _told(answer)
    said = told.msg or f"status {answer.status}"
    if answer.status == 451:
        return Unavailable(f"{request}: not served to this location (451): {said}", retry_after_s=3_600)
    if answer.status == 404 or 300 <= answer.status < 400:
        return BadSetting(setting, address, f"must be the address of that market's REST: {request} is {answer.status}")
    if answer.status >= 500 or answer.status == 408 or told.code in (-1000, -1001, -1006, -1007, -1008):
        return Unavailable(f"{request}: {said}", retry_after_s=_retry_after_s(answer) or 1.0)
    if told.code in _UNKNOWN:
        return NotFound(f"{request}: the venue does not know it, or no more ({told.code}: {told.msg})")
    if told.code == _BEHIND_THE_WALL:
        return Unavailable(f"{request}: further back than the venue answers for: {told.msg}", retry_after_s=3_600)
    if told.code in _OUR_FAULT:
        field, rule = _OUR_FAULT[told.code]
        if field.startswith("BINANCE"):
            return BadSetting(field, "***", rule)
        return BadQuery(field, request, f"{rule} ({told.code}: {told.msg})")
    return BadQuery("request", request, f"the venue will not answer it ({answer.status}, {told.code}: {said})")


def used_weight(answer: Answer) -> int | None:
    """Weight used in this minute by our address, by the header; None where there is none, as on the funding routes."""
    text = answer.headers.get("x-mbx-used-weight-1m", "")
    return int(text) if text.isascii() and text.isdigit() else None


def read(body: bytes, decoder: msgspec.json.Decoder[T], request: str) -> T:
    """The body as the decoder reads it. What broke off is Unavailable, what is something else is Undecodable."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Undecodable(f"{request}: not what the venue answers there: {error}") from error
    except msgspec.DecodeError as error:
        raise Unavailable(f"{request}: an answer that broke off: {error}") from error


_TOLD = msgspec.json.Decoder(_Told)


def _told(answer: Answer) -> _Told:
    try:
        return _TOLD.decode(answer.body)
    except msgspec.DecodeError:
        return _Told()


def _retry_after_s(answer: Answer) -> float | None:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None

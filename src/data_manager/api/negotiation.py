"""What the caller can take: the format of the rows, the coding of the bytes, and whether it has them already."""

import zlib
from collections.abc import Iterator
from functools import lru_cache

import pyarrow as pa

from data_manager.services.answering.formats import FORMATS, Format

COMPRESS_FROM_BYTES = 4_096
_GZIP_LEVEL, _GZIP_WINDOW = 1, 31
_ZSTD = pa.Codec("zstd", compression_level=1)
_CODINGS = ("zstd", "gzip")  # best first


@lru_cache(maxsize=256)
def accepted_format(accept: bytes) -> Format | None:
    """The format that an Accept header likes best; JSON where it does not care, None where it takes none of ours."""
    if not accept:
        return FORMATS["json"]
    wishes = dict(_weights(accept))
    weights = {one.name: _weight(one.media_type, wishes) for one in FORMATS.values()}
    best = max(weights, key=lambda name: weights[name])
    return FORMATS[best] if weights[best] > 0 else None


def _weight(media_type: str, wishes: dict[str, float]) -> float:
    kind = media_type.partition("/")[0]
    for name in (media_type, f"{kind}/*", "*/*"):
        if name in wishes:
            return wishes[name]
    return 0


@lru_cache(maxsize=256)
def accepted_coding(header: bytes) -> str | None:
    """The best content coding that an Accept-Encoding header allows; None: send the bytes as they are."""
    wishes = dict(_weights(header))
    anything = wishes.get("*", 0)
    return next((coding for coding in _CODINGS if wishes.get(coding, anything) > 0), None)


def _weights(header: bytes) -> Iterator[tuple[str, float]]:
    """Each choice of an Accept header with its q; a q that is no number counts as 0."""
    for choice in header.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip() for part in choice.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        yield name, float(weight) if weight.replace(".", "", 1).isdecimal() else 0


def compressed(body: bytes, coding: str) -> bytes:
    """The body in that coding, made quickly rather than small."""
    if coding == "gzip":
        return zlib.compress(body, _GZIP_LEVEL, _GZIP_WINDOW)
    packed: bytes = _ZSTD.compress(body, asbytes=True)
    return packed


def has_already(if_none_match: bytes, etag: bytes) -> bool:
    """Whether the caller holds what etag names. Weak comparison, as If-None-Match asks for."""
    held = {one.strip().removeprefix(b"W/") for one in if_none_match.split(b",")}
    return b"*" in held or etag.removeprefix(b"W/") in held

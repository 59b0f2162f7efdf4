"""Decoded columns of chunks, kept as long as they fit; the least recently used go first."""

from collections import OrderedDict
from collections.abc import Collection
from threading import Lock

from data_manager.domain.values.columns import Column


class NotCached(LookupError):
    """A column is not in memory and would have to be fetched."""


class ColumnCache:
    """Columns by chunk id, bounded by bytes. Chunks never change, so nothing is ever stale. Thread-safe."""

    def __init__(self, size_bytes_max: int) -> None:
        self._max = size_bytes_max
        self._size = 0
        self._held: OrderedDict[int, dict[str, Column]] = OrderedDict()
        self._lock = Lock()

    def get(self, chunk: int, names: Collection[str]) -> dict[str, Column] | None:
        """The named columns, or None unless all of them are here."""
        with self._lock:
            held = self._held.get(chunk)
            if held is None or any(name not in held for name in names):
                return None
            self._held.move_to_end(chunk)
            return {name: held[name] for name in names}

    def put(self, chunk: int, columns: dict[str, Column]) -> None:
        """Keep these columns besides those already held of the chunk."""
        with self._lock:
            held = self._held.setdefault(chunk, {})
            self._held.move_to_end(chunk)
            for name, column in columns.items():
                if name not in held:
                    held[name] = column
                    self._size += column.size_bytes
            while self._size > self._max and self._held:
                _, gone = self._held.popitem(last=False)
                self._size -= sum(column.size_bytes for column in gone.values())

"""Replay: recordings onto the bus, as the publisher would have sent them.

Files are read in the order given, each in its recorded order, which is the order the venue's messages were handled in.
With merge, the lines of all files are interleaved by the time they were received.
"""

import heapq
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from gzip import GzipFile
from io import BufferedReader
from pathlib import Path
from typing import Final, Literal, Protocol

from msgspec import Struct

from data_manager.domain.errors import BadQuery, Corrupt, Invalid, NotFound
from data_manager.ports import Clock
from data_manager.services.envelope import Enveloper, Recorded, parse_line

_CHUNK: Final = 500  # messages handed to the publisher at once
_DUE_S: Final = 0.001  # sooner than that is now
_NAP_S: Final = 0.2  # so often a pause looks whether it should stop
_PAUSE_MAX_S: Final = 10.0  # between two recordings may lie years
_READ_BYTES: Final = 1 << 20
_LINE_BYTES_MAX: Final = 64 << 20
_GZIP: Final = b"\x1f\x8b"


class Publisher(Protocol):
    """Where a replay sends."""

    async def publish(self, payloads: Sequence[bytes]) -> None:
        """Send these in order; waits while too much is unconfirmed. Raises Unavailable, Invalid (too large)."""
        ...

    async def confirm(self) -> None:
        """Return when all of it is with the server. Raises Unavailable, also when the server lost some."""
        ...


class ReplayOptions(Struct, frozen=True, kw_only=True):
    """How to replay. speed None is as fast as it goes, 1 the recorded pace, 10 ten times that."""

    form: Literal["envelope", "raw"] = "envelope"  # the publisher's envelope, or the bare event
    speed: float | None = None
    merge: bool = False


class ReplayProgress(Struct, frozen=True, kw_only=True):
    """Where a replay stands. Bytes are of the files as they lie on the disk."""

    file: str
    messages: int
    bytes_read: int
    bytes_total: int


class ReplayReport(Struct, frozen=True, kw_only=True):
    """What a replay did. stopped: by stop(), before the end."""

    files: int
    messages: int
    bytes: int
    seconds: float
    stopped: bool


def parse_speed(text: str) -> float | None:
    """The speed a person writes: max, or a number above 0. Raises BadQuery."""
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise BadQuery("speed", text, "must be max, or a number above 0: 1 is the recorded pace")
    return speed


class Replay:
    """One replay: run() it once; stop() ends it early, cleanly."""

    def __init__(
        self,
        files: Sequence[Path],
        publisher: Publisher,
        *,
        clock: Clock,
        options: ReplayOptions | None = None,
        on_progress: Callable[[ReplayProgress], None] | None = None,
    ) -> None:
        self._files = files
        self._publisher = publisher
        self._clock = clock
        self._options = options or ReplayOptions()
        self._on_progress = on_progress
        self._enveloper = Enveloper()
        self._stopping = False
        self._messages = 0
        self._bytes = 0

    async def run(self) -> ReplayReport:
        """Publish everything; on return all of it is with the server.

        Raises NotFound (no such file), Invalid (not a recording: names file and line) and Corrupt (a file ends early);
        every file is opened before anything is sent, and what precedes a bad line is sent. Raises Unavailable when the
        server is away or lost messages.
        """
        started_s = self._clock.monotonic_s()
        with ExitStack() as stack:
            recordings = [stack.enter_context(Recording(file)) for file in self._files]
            for recording in recordings:
                recording.require()
            try:
                await self._send_all(recordings)
            finally:
                self._tell(recordings)
        return ReplayReport(
            files=len(self._files),
            messages=self._messages,
            bytes=self._bytes,
            seconds=self._clock.monotonic_s() - started_s,
            stopped=self._stopping,
        )

    def stop(self) -> None:
        """End after the messages under way."""
        self._stopping = True

    async def _send_all(self, recordings: "Sequence[Recording]") -> None:
        waiting: list[bytes] = []
        try:
            await self._send_each(recordings, waiting)
        except (Invalid, Corrupt):  # what precedes the damage is not kept back
            await self._finish(waiting, recordings)
            raise
        await self._finish(waiting, recordings)

    async def _send_each(self, recordings: "Sequence[Recording]", waiting: list[bytes]) -> None:
        """Fill waiting, and send it whenever it is full or what comes next is not due yet."""
        pace = _Pace(self._clock, self._options.speed)
        for recorded in _in_order(recordings, merge=self._options.merge):
            pause_s = pace.pause_s(recorded.recv_ns)
            if pause_s > _DUE_S or len(waiting) >= _CHUNK:
                await self._send(waiting, recordings)
                await self._pause(pause_s)
            if self._stopping:
                return
            waiting.append(self._payload(recorded))

    async def _finish(self, waiting: list[bytes], recordings: "Sequence[Recording]") -> None:
        await self._send(waiting, recordings)
        await self._publisher.confirm()

    async def _send(self, waiting: list[bytes], recordings: "Sequence[Recording]") -> None:
        payloads, waiting[:] = tuple(waiting), ()
        await self._publisher.publish(payloads)
        self._messages += len(payloads)
        self._bytes += sum(map(len, payloads))
        self._tell(recordings)

    async def _pause(self, seconds: float) -> None:
        until_s = self._clock.monotonic_s() + seconds
        while not self._stopping and (left_s := until_s - self._clock.monotonic_s()) > 0:
            await self._clock.sleep(min(left_s, _NAP_S))

    def _payload(self, recorded: Recorded) -> bytes:
        if self._options.form == "raw":
            return recorded.data
        return self._enveloper.wrap(recorded, self._clock.now_ms() * 1_000_000)

    def _tell(self, recordings: "Sequence[Recording]") -> None:
        if self._on_progress is None:
            return
        progress = ReplayProgress(
            file=next((one.name for one in recordings if not one.done), recordings[-1].name if recordings else ""),
            messages=self._messages,
            bytes_read=sum(one.bytes_read for one in recordings),
            bytes_total=sum(one.bytes_total for one in recordings),
        )
        self._on_progress(progress)


class _Pace:
    """When the next message is due: the recorded distances divided by the speed, none longer than _PAUSE_MAX_S."""

    def __init__(self, clock: Clock, speed: float | None) -> None:
        self._clock = clock
        self._speed = speed
        self._last_ns: int | None = None
        self._due_s = clock.monotonic_s()

    def pause_s(self, recv_ns: int | None) -> float:
        """Seconds until this message is due; 0 or less: now. A receive time that goes back moves nothing."""
        if self._speed is None or recv_ns is None:
            return 0.0
        if self._last_ns is not None:
            self._due_s += min(max(recv_ns - self._last_ns, 0) / 1e9 / self._speed, _PAUSE_MAX_S)
        self._last_ns = recv_ns
        return self._due_s - self._clock.monotonic_s()


class Recording:
    """The lines of one file, gzipped or not, told by its first bytes. Open it with `with`."""

    def __init__(self, file: Path) -> None:
        self.name = file.name
        self.done = False
        self.bytes_total = 0
        self._file = file
        self._first: list[Recorded] = []

    def __enter__(self) -> "Recording":
        if not self._file.is_file():
            what = "a folder: name the files in it" if self._file.is_dir() else "no such file"
            raise NotFound(f"no recording at {self._file}: {what}")
        self._raw = self._file.open("rb")
        self.bytes_total = self._file.stat().st_size
        zipped = self._raw.peek(2)[:2] == _GZIP
        self._lines = self._read(GzipFile(fileobj=self._raw) if zipped else self._raw)
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    @property
    def bytes_read(self) -> int:
        """How far the file was read, as it lies on the disk."""
        return self.bytes_total if self.done else self._raw.tell()

    def require(self) -> None:
        """Read the first message, so that what is no recording is known at once. Raises Invalid, Corrupt."""
        self._first = [recorded for _, recorded in zip(range(1), self._lines, strict=False)]

    def __iter__(self) -> Iterator[Recorded]:
        """The messages. Raises Invalid for a line that is none, Corrupt when the file ends early."""
        yield from self._first
        yield from self._lines
        self.done = True

    def _read(self, file: "GzipFile | BufferedReader") -> Iterator[Recorded]:
        number, rest = 0, b""
        try:
            while chunk := file.read1(_READ_BYTES):
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    number += 1
                    yield from self._parse(line, number)
                if len(rest) > _LINE_BYTES_MAX:
                    raise Invalid(f"{self.name} line {number + 1}", "", f"must be shorter than {_LINE_BYTES_MAX} bytes")
        except EOFError as error:
            raise Corrupt(f"{self.name} is cut off after line {number}: copy it again") from error
        except (OSError, zlib.error) as error:
            raise Corrupt(f"{self.name} cannot be read after line {number}: {error}") from error
        yield from self._parse(rest, number + 1)

    def _parse(self, line: bytes, number: int) -> Iterator[Recorded]:
        stripped = line.strip()
        if stripped:
            yield parse_line(stripped, f"{self.name} line {number}")


def _in_order(recordings: Sequence[Recording], *, merge: bool) -> Iterable[Recorded]:
    if merge:
        return (recorded for _, recorded in heapq.merge(*map(_timed, recordings), key=lambda timed: timed[0]))
    return (recorded for recording in recordings for recorded in recording)


def _timed(recording: Recording) -> Iterator[tuple[int, Recorded]]:
    """A line that does not say when it was received stays with the line before it."""
    last_ns = 0
    for recorded in recording:
        last_ns = last_ns if recorded.recv_ns is None else recorded.recv_ns
        yield last_ns, recorded

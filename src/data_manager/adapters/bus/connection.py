"""A connection to NATS that outlives its server.

Every attempt uses a fresh client and runs the session anew; nats-py's own reconnecting is off. So nothing that belonged
to a dead connection (inboxes, pull requests, half-written acks) can be mistaken for something alive.
"""

import asyncio
import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from msgspec import Struct
from nats import errors
from nats.aio.client import Client
from nats.js.errors import APIError

from data_manager.domain.errors import BadSetting, Unavailable
from data_manager.ports.bus import ErrorType

CLIENT_NAME: Final = "petrosa-data-manager-consumer"

_PING_S: Final = 10  # two unanswered ones end the connection
_BACKOFF_FIRST_S: Final = 0.1
_LOGIN: Final = "authorization violation"  # in the server's words, whatever is wrong with a login
_CLOSE_S: Final = 2.0  # a frozen server may not keep us longer than this
_TURN_S: Final = 0.001
_FLUSH_S: Final = 10  # nats-py's own default

_log = structlog.get_logger(__name__)


class NatsAccess(Struct, frozen=True, kw_only=True):
    """Where the servers are and how to get in. Credentials may also stand in the URLs, before the @."""

    urls: tuple[str, ...] = ("nats://localhost:4222",)
    user: str | None = None
    password: str | None = None
    token: str | None = None
    creds_file: Path | None = None
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    name: str = CLIENT_NAME
    connect_timeout_s: float = 10.0
    reconnect_wait_s: float = 2.0  # longest pause between two attempts
    reconnect_attempts_max: int | None = None  # failures in a row before we give up; None: keep trying

    @property
    def shown(self) -> str:
        """The servers as a log may name them."""
        return ", ".join(_without_credentials(url) for url in self.urls)

    def __repr__(self) -> str:
        return f"NatsAccess({self.shown}, name={self.name!r})"


Session = Callable[[Client], Coroutine[Any, Any, None]]
"""What is done with a connection while it lasts. Raises Unavailable to have another one."""


class Arrived(Struct, gc=False):
    """A message as nats-py's reader hands it to us: its own Msg without what only Msg's methods need."""

    _client: Any
    subject: str = ""
    reply: str = ""
    data: bytes = b""
    headers: dict[str, str] | None = None
    _sid: int | None = None


class Unencrypted(errors.Error):
    """We were told to use TLS, and the server does not."""

    def __str__(self) -> str:
        return "it does not encrypt: let it require TLS, or leave NATS_TLS_* and tls:// out of our settings"


class LeanClient(Client):
    """nats-py's client with the cheaper message (0.5 to 1 µs less for each), and a flush that keeps its place.

    nats-py writes the PING of a flush ahead of what still waits in its buffer. Its own drain of a subscription relies
    on the order, forgets the subscription at the PONG, and loses what the server sent before it read the UNSUB.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()

    async def flush(self, timeout: int = _FLUSH_S) -> None:
        """See Client; the PING goes out after everything that was sent before."""
        await _written(self)
        await super().flush(timeout)

    def _connect_command(self) -> bytes:
        """nats-py's own, which would send our login in plain text to a server that does not ask for TLS."""
        encrypted = self._server_info.get("tls_required", False)
        if not encrypted and (self.options.get("tls") is not None or self._wants_tls()):
            raise Unencrypted
        return super()._connect_command()

    def _wants_tls(self) -> bool:
        return self._current_server is not None and self._current_server.uri.scheme == "tls"

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """nats-py's own, which calls nobody back when the last write of a broken connection fails."""
        try:
            await super()._close(status, do_cbs)
        finally:
            self.ended.set()

    msg_class = Arrived  # type: ignore[assignment]  # the attribute is there to be set, but typed as a subclass of Msg


class NatsConnection:
    """Keeps a session running on a live connection: opens it, opens it again, says how it stands."""

    def __init__(self, access: NatsAccess) -> None:
        self.access = access
        self.client: Client | None = None  # None while there is no connection
        self.connected = False  # a session is ready for work
        self.reason: str | None = "not connected yet"
        self.reconnects = 0
        self.errors: Counter[ErrorType] = Counter()
        self._urls = access.urls
        self._failures = 0
        self._trouble: ErrorType = "connection"  # what it is when the session ends now
        self._was_up = False
        self._keeper: asyncio.Task[None] | None = None
        self._closing = False

    def start(self, session: Session) -> None:
        """Begin, in the background. Once started it goes on until close(); more calls change nothing."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(session), name="nats connection")

    def up(self) -> None:
        """The session says: everything is in place."""
        if self.connected:
            return
        if self._was_up:
            self.reconnects += 1
        _log.info("nats connected", servers=self.access.shown, reconnects=self.reconnects)
        self._was_up, self.connected, self.reason, self._failures = True, True, None, 0
        self._trouble = "connection"

    def lose(self) -> None:
        """The connection is not to be used any more."""
        self.client, self.connected = None, False

    def check(self) -> None:
        """Raise what ended the keeping of the connection, if something did: a setting no retry can mend, or a bug."""
        if self._keeper is not None and self._keeper.done() and not self._keeper.cancelled():
            self._keeper.result()

    async def close(self) -> None:
        """End the session and the connection. Returns within a few seconds, whatever the server does."""
        self._closing = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            if not self._keeper.cancelled():
                self._keeper.exception()  # check() has told it to whoever asked
        self.connected, self.reason = False, "closed"

    async def _keep(self, session: Session) -> None:
        while (
            not self._closing
        ):  # a cancellation that meets the end of an attempt is swallowed (wait_for of Python 3.11)
            try:
                await self._once(session)
            except Unavailable as why:
                self._down(str(why))
            except BadSetting as why:
                self._down(str(why))
                if not self._was_up:
                    raise
            self._give_up_maybe()
            await asyncio.sleep(self._pause_s())

    async def _once(self, session: Session) -> None:
        """One connection, from opening to its end, which is always Unavailable or worse."""
        async with opened(self.access, self._urls, self._on_error) as (client, closed):
            self._learn(client)
            self.client, self._trouble = client, "subscription"
            try:
                await _until_closed(session(client), closed)
            finally:
                self.lose()
        raise Unavailable(f"connection to {self.access.shown} lost")

    async def _on_error(self, error: Exception) -> None:
        if self.client is not None:  # else it tells of an attempt, which is counted when it ends
            self.errors["general"] += 1
        _log.debug("nats error", error=str(error), kind=type(error).__name__)

    def _down(self, reason: str) -> None:
        if reason != self.reason:
            _log.warning("nats away", reason=reason)
        self.reason = reason
        self._failures += 1
        self.errors[self._trouble] += 1
        self._trouble = "connection"

    def _give_up_maybe(self) -> None:
        most = self.access.reconnect_attempts_max
        if most is not None and self._failures > most:
            raise Unavailable(f"gave up on NATS after {most} attempts (NATS_MAX_RECONNECT_ATTEMPTS): {self.reason}")

    def _pause_s(self) -> float:
        """Doubling, bounded, and different for every replica."""
        longest = min(self.access.reconnect_wait_s, _BACKOFF_FIRST_S * 2.0 ** min(self._failures, 20))
        return longest * random.uniform(0.5, 1.0)

    def _learn(self, client: Client) -> None:
        """Servers of the cluster that were not in the settings: they count as ours from now on."""
        first = urlsplit(self.access.urls[0])
        login = f"{first.netloc.rpartition('@')[0]}@" if "@" in first.netloc else ""
        found = (f"{first.scheme}://{login}{server.netloc}" for server in client.discovered_servers)
        self._urls = tuple(dict.fromkeys((*self.access.urls, *found)))


async def _until_closed(session: Coroutine[Any, Any, None], closed: asyncio.Event) -> None:
    """Run the session until it ends or the connection does. Raises what the session raised."""
    work = asyncio.create_task(session, name="nats session")
    over = asyncio.create_task(closed.wait(), name="nats closed")
    try:
        await asyncio.wait({work, over}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (work, over):
            task.cancel()
        await asyncio.wait({work, over})
    if not work.cancelled():
        work.result()


@asynccontextmanager
async def opened(
    access: NatsAccess, urls: tuple[str, ...], on_error: Callable[[Exception], Awaitable[None]]
) -> AsyncIterator[tuple[Client, asyncio.Event]]:
    """A connected client, and the event that says its connection ended. Raises Unavailable, BadSetting."""
    options = _options(access)
    client = LeanClient()
    closed = client.ended
    reasons: list[Exception] = []

    async def note(error: Exception) -> None:
        reasons.append(error)
        await on_error(error)

    async def note_closed() -> None:
        closed.set()

    try:
        with translated(f"cannot connect to {access.shown}", reasons):
            await client.connect(
                list(urls), closed_cb=note_closed, disconnected_cb=note_closed, error_cb=note, **options
            )
        yield client, closed
    finally:
        await _shut(client)


async def flush(client: Client, within_s: float) -> None:
    """Return when the server has read all that we sent. Raises TimeoutError, or the driver's error.

    Any client of nats-py will do, also one whose own flush() writes its PING ahead of what still waits in its buffer.
    """
    async with asyncio.timeout(within_s):
        await _written(client)
        await client.flush()


async def _written(client: Client) -> None:
    """Return when nothing waits in the client's buffer."""
    while client.pending_data_size > 0 and not client.is_closed:  # noqa: ASYNC110 - nats-py has no event for it
        await asyncio.sleep(_TURN_S)


async def _shut(client: Client) -> None:
    """Close, but do not wait longer than _CLOSE_S for a server that takes nothing."""
    if not client.options:
        return  # it refused the URLs: there is nothing to close, and its close() would fail an assertion
    try:
        async with asyncio.timeout(_CLOSE_S):
            await client.close()
    except (TimeoutError, OSError, errors.Error) as error:
        _log.warning("nats connection not closed cleanly", error=_in_words(error))


def _options(access: NatsAccess) -> dict[str, Any]:
    return {
        "name": access.name,
        "user": access.user,
        "password": access.password,
        "token": access.token,
        "user_credentials": _credentials(access.creds_file),
        "tls": _tls(access),
        "connect_timeout": access.connect_timeout_s,
        "ping_interval": _PING_S,
        "allow_reconnect": False,
        "max_reconnect_attempts": 1,  # per server and call; the next round is ours
        "reconnect_time_wait": 0,
        "skip_subject_validation": True,  # ours come from the settings or from the server: 0.5 µs per ack
    }


def _credentials(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        content = file.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise BadSetting("NATS_CREDS_FILE", str(file), f"must be a readable file: {error.strerror}") from error
    if not all(f"BEGIN {part}" in content for part in ("NATS USER JWT", "USER NKEY SEED")):
        raise BadSetting("NATS_CREDS_FILE", str(file), "must hold a user's JWT and seed, as `nsc` writes them")
    if find_spec("nkeys") is None:
        raise BadSetting("NATS_CREDS_FILE", str(file), "needs the package nkeys: pip install nkeys")
    return str(file)


def _tls(access: NatsAccess) -> ssl.SSLContext | None:
    """None leaves the choice to nats-py: the system's authorities, when the server or a tls:// URL asks for TLS."""
    if access.tls_ca_file is None and access.tls_cert_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=access.tls_ca_file)
        if access.tls_cert_file is not None:
            context.load_cert_chain(access.tls_cert_file, access.tls_key_file)
    except (OSError, ssl.SSLError) as error:
        raise BadSetting("NATS_TLS_*", str(access.tls_ca_file or access.tls_cert_file), str(error)) from error
    return context


@contextmanager
def translated(doing: str, reasons: list[Exception] | None = None) -> Iterator[None]:
    """The driver's errors as Unavailable: "<doing>: <why>". reasons, when given, may know better why."""
    try:
        yield
    except (errors.Error, OSError, TimeoutError) as error:
        why = next(filter(_is_refusal, reasons or ()), (reasons or [error])[-1])
        raise Unavailable(f"{doing}: {_in_words(why)}") from error


def _is_refusal(error: Exception) -> bool:
    """Whether somebody has to change something, of which a broken connection is only what follows."""
    return isinstance(error, ssl.SSLError | Unencrypted) or _LOGIN in str(error).lower()


def _in_words(error: Exception) -> str:
    """Never empty, without the driver's prefix, and naming the settings to look at where those are it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        fix = "NATS_TLS_CA_FILE must hold who signed it, and it must be made out for this host"
        return f"its certificate is not trusted ({error.verify_message}): {fix}"
    if isinstance(error, ssl.SSLError):
        fix = "one that asks who we are wants NATS_TLS_CERT_FILE and NATS_TLS_KEY_FILE of an authority it knows"
        return f"no agreement on TLS ({error.reason}): {fix}"
    if _LOGIN in str(error).lower():
        fix = "check NATS_USER and NATS_PASSWORD, NATS_TOKEN or NATS_CREDS_FILE, or what NATS_URL has before the @"
        return f"it refuses our login ({_bare(error)}): {fix}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, APIError) and error.description:
        return error.description
    return _bare(error)


def _bare(error: Exception) -> str:
    return str(error).removeprefix("nats: ").strip("'") or type(error).__name__


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

"""Our side of a JetStream server: the stream that captures the subject and the consumer all replicas share.

Created when absent, never altered: what exists was somebody's decision. A difference that we can live with is a
warning; one that we cannot is a BadSetting that names the variable.
"""

from dataclasses import replace
from typing import Any, Final

import structlog
from msgspec import Struct
from nats.errors import NoRespondersError
from nats.js import JetStreamContext, api
from nats.js import errors as js_errors

from data_manager.adapters.bus.connection import translated
from data_manager.domain.errors import BadSetting
from data_manager.domain.time import ms_of

_NOT_ENABLED: Final = (10039, 10076)  # for this account, on this server
_OVERLAP: Final = 10065
_NO_ROOM: Final = 10047
_LEAST_BYTES: Final = 16 * 2**20  # some minutes of a lively market

_log = structlog.get_logger(__name__)


class StreamOptions(Struct, frozen=True, kw_only=True):
    """How deliveries are kept and taken. Bounds of the stream hold from its creation on."""

    stream: str = "MARKET_EVENTS"
    durable: str = "petrosa-data-manager"
    max_bytes: int = 2**31  # the oldest messages make room
    or_less: bool = False  # a server that has less room gets a smaller stream
    max_age_s: float = 3 * 86_400.0
    ack_wait_s: float = 30.0
    in_flight_max: int = 20_000  # collected or handed over, and not acknowledged
    in_flight_bytes_max: int = 32 * 2**20  # well below what a server buffers for a client that does not read
    heartbeat_s: float = 5.0  # so often the server says that a request without messages is still known

    @property
    def ack_pending_max(self) -> int:
        """Deliveries the server lets all replicas together owe: room for several of them."""
        return max(200_000, 4 * self.in_flight_max)


class NoJetStream(BadSetting):
    """The server, or our account on it, offers no JetStream."""


class Standing(Struct, frozen=True):
    """What is in place: the stream's birth tells a new stream of the same name from the old one."""

    born: str
    unread_from: int  # the consumer's next new message, as a sequence of the stream
    read_ms: int  # when it last was given one
    first: int  # oldest message the stream still has
    pending: int
    deliveries: int  # of the consumer, redeliveries included
    all_ours: bool  # the stream captures nothing that the consumer does not take


async def has_jetstream(js: JetStreamContext) -> bool:
    """Whether this account can use JetStream. Raises Unavailable when the server does not say."""
    with translated("the server does not say whether it has JetStream"):
        try:
            await js.account_info()
        except (js_errors.ServiceUnavailableError, NoRespondersError):
            return False  # nobody listens on the API's subjects
        except js_errors.APIError as error:
            if error.err_code not in _NOT_ENABLED:
                raise
            return False
    return True


async def ensure(js: JetStreamContext, subject: str, options: StreamOptions) -> Standing:
    """Stream and consumer as they stand, created where absent. Raises Unavailable, BadSetting, NoJetStream."""
    if not await has_jetstream(js):
        raise NoJetStream("NATS_MODE", "jetstream", "the server has no JetStream: start it with -js, or use core")
    with translated("JetStream"):
        stream = await _stream(js, subject, options)
        consumer = await _consumer(js, subject, options)
    return _standing(stream, consumer)


async def look(js: JetStreamContext, options: StreamOptions) -> Standing:
    """As they stand now. Raises Unavailable, also when one of them is gone."""
    with translated("JetStream"):
        stream = await js.stream_info(options.stream)
        consumer = await js.consumer_info(options.stream, options.durable)
    return _standing(stream, consumer)


def _standing(stream: api.StreamInfo, consumer: api.ConsumerInfo) -> Standing:
    read = consumer.delivered
    read_at = consumer.created if read is None or read.last_active is None else read.last_active
    all_ours = stream.config.subjects == [consumer.config.filter_subject]
    return Standing(
        born=str(stream.created),
        unread_from=1 if read is None else read.stream_seq + 1,
        read_ms=ms_of(read_at),
        first=stream.state.first_seq,
        pending=max(consumer.num_pending or 0, _unread(stream.state, read) if all_ours else 0),
        deliveries=0 if read is None else read.consumer_seq,
        all_ours=all_ours,
    )


def _unread(state: api.StreamState, read: api.SequenceInfo | None) -> int:
    """What lies behind the last delivery: num_pending tells of a message only a moment after it was acknowledged.

    Messages deleted one by one may lie anywhere: they are taken for unread ones, so that this is never too much.
    """
    before = max(state.first_seq - 1, 0 if read is None else read.stream_seq)
    return max(0, state.last_seq - before - (state.num_deleted or 0))


async def _stream(js: JetStreamContext, subject: str, options: StreamOptions) -> api.StreamInfo:
    wanted = api.StreamConfig(
        name=options.stream,
        subjects=[subject],
        retention=api.RetentionPolicy.LIMITS,
        discard=api.DiscardPolicy.OLD,
        storage=api.StorageType.FILE,
        max_bytes=options.max_bytes,
        max_age=options.max_age_s,
    )
    try:
        found = await js.stream_info(options.stream)
    except js_errors.NotFoundError:
        return await _create_stream(js, subject, wanted, _LEAST_BYTES if options.or_less else options.max_bytes)
    captured = found.config.subjects or []
    if not any(covers(pattern, subject) for pattern in captured):
        rule = f"this stream exists and captures {captured}, not {subject}: name another one or change its subjects"
        raise BadSetting("NATS_STREAM", options.stream, rule)
    if options.or_less and 0 < (found.config.max_bytes or 0) < options.max_bytes:
        wanted = replace(wanted, max_bytes=None)
    _warn_of_differences("stream", options.stream, wanted.as_dict(), found.config.as_dict())
    return found


async def _create_stream(
    js: JetStreamContext, subject: str, wanted: api.StreamConfig, least_bytes: int
) -> api.StreamInfo:
    try:
        made = await js.add_stream(wanted)
    except js_errors.APIError as error:
        if error.err_code == _NO_ROOM:
            half = (wanted.max_bytes or 0) // 2
            if half >= least_bytes:
                _log.warning("the server has no room for such a stream: a smaller one", max_bytes=half)
                return await _create_stream(js, subject, replace(wanted, max_bytes=half), least_bytes)
            rule = "the server has less room for streams: lower it, or give the server more"
            raise BadSetting("NATS_STREAM_MAX_BYTES", wanted.max_bytes, rule) from error
        if error.err_code != _OVERLAP:
            raise
        other = await js.find_stream_name_by_subject(subject)
        rule = f"the stream {other} captures {subject} already: set NATS_STREAM={other}"
        raise BadSetting("NATS_STREAM", wanted.name, rule) from error
    _log.info("stream created", stream=wanted.name, subject=subject, max_bytes=wanted.max_bytes)
    return made


async def _consumer(js: JetStreamContext, subject: str, options: StreamOptions) -> api.ConsumerInfo:
    wanted = api.ConsumerConfig(
        durable_name=options.durable,
        deliver_policy=api.DeliverPolicy.ALL,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=options.ack_wait_s,
        max_deliver=-1,
        max_ack_pending=options.ack_pending_max,
        filter_subject=subject,
    )
    try:
        found: api.ConsumerInfo = await js.consumer_info(options.stream, options.durable)
    except js_errors.NotFoundError:
        made: api.ConsumerInfo = await js.add_consumer(options.stream, wanted)
        _log.info("consumer created", stream=options.stream, consumer=options.durable)
        return made
    _require_ours(found.config, subject, options)
    _warn_of_differences("consumer", options.durable, wanted.as_dict(), found.config.as_dict())
    return found


def _require_ours(config: api.ConsumerConfig, subject: str, options: StreamOptions) -> None:
    """A consumer of that name must be one we can pull from and acknowledge message by message."""
    filters = config.filter_subjects or [config.filter_subject or ">"]
    if config.deliver_subject:
        why = "pushes; ours pulls"
    elif config.ack_policy != api.AckPolicy.EXPLICIT:
        why = f"has the ack policy {config.ack_policy}; ours must be explicit, since replicas share it"
    elif not any(covers(pattern, subject) for pattern in filters):
        why = f"takes only {filters}, not {subject}"
    else:
        return
    raise BadSetting("NATS_CONSUMER", options.durable, f"this consumer exists and {why}: name another one or delete it")


def _warn_of_differences(kind: str, name: str | None, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    """Only what we have an opinion on; the server fills in the rest."""
    asked = {key: value for key, value in wanted.items() if value not in (None, False, 0)}
    differ = {key: {"ours": value, "found": found.get(key)} for key, value in asked.items() if found.get(key) != value}
    if differ:
        _log.warning(f"{kind} exists with other settings: used as it is", name=name, differ=differ)


def covers(pattern: str, subject: str) -> bool:
    """Whether every subject that `subject` stands for is one that `pattern` stands for (* one word, > the rest)."""
    want, have = pattern.split("."), subject.split(".")
    for at, word in enumerate(want):
        if word == ">":
            return len(have) > at
        if at >= len(have) or have[at] == ">" or (word not in ("*", have[at])):
            return False
    return len(want) == len(have)

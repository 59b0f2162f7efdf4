"""The environment as settings: read once, checked, frozen. An empty variable counts as unset."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

from data_manager.adapters.binance.feed_names import address_of, streams_of
from data_manager.domain.errors import BadSetting
from data_manager.settings.declaring import parsed, shown, valid_text
from data_manager.settings.fields import SETTINGS, TYPES, Settings


class BadSettings(BadSetting):
    """Everything that is wrong with the environment at once: one line per problem."""

    def __init__(self, problems: tuple[BadSetting, ...]) -> None:
        Exception.__init__(self, "\n".join(str(problem) for problem in problems))
        self.name = " ".join(problem.name for problem in problems)
        self.problems = problems


def load(environ: Mapping[str, str]) -> Settings:
    """The settings that environ asks for. Raises BadSettings naming every variable that holds something unusable."""
    settings, problems = read(environ)
    if problems:
        raise BadSettings(problems)
    return settings


def read(environ: Mapping[str, str]) -> tuple[Settings, tuple[BadSetting, ...]]:
    """As load(), for those who report: a variable that is unusable keeps its default and is named in the problems."""
    values: dict[str, Any] = {}
    problems: list[BadSetting] = []
    for name, text in _given(environ):
        try:
            values[name] = parsed(SETTINGS[name], TYPES[name], text)
        except ValueError as rule:
            problems.append(BadSetting(name.upper(), shown(SETTINGS[name], text), str(rule)))
    settings = Settings(**values)
    return settings, (*problems, *_contradictions(settings))


def _given(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Field and text of every variable of ours that is set to something."""
    for name in SETTINGS:
        text = environ.get(name.upper(), "").strip()
        if text and not (name.endswith("_port") and _OF_KUBERNETES.fullmatch(text)):
            yield name, text


def _contradictions(settings: Settings) -> Iterator[BadSetting]:
    """Settings that are valid each, but not together."""
    if settings.api_port == settings.metrics_port != 0 and settings.api_host == settings.metrics_host:
        yield BadSetting("METRICS_PORT", settings.metrics_port, "must differ from API_PORT")
    if (settings.nats_tls_cert_file is None) != (settings.nats_tls_key_file is None):
        yield BadSetting(
            "NATS_TLS_KEY_FILE", settings.nats_tls_key_file, "must be set together with NATS_TLS_CERT_FILE"
        )
    if settings.heartbeat_s * 2 > settings.leader_election_timeout:
        yield BadSetting(
            "LEADER_ELECTION_HEARTBEAT_INTERVAL",
            settings.leader_election_heartbeat_interval,
            "must be at most half of LEADER_ELECTION_TIMEOUT",
        )
    yield from _of_the_feed(settings)
    yield from _of_retention(settings)
    if settings.flush_age_ms >= settings.nats_ack_wait_s * 1_000:
        yield BadSetting("FLUSH_AGE_MS", settings.flush_age_ms, "must be shorter than NATS_ACK_WAIT_S")


def _of_the_feed(settings: Settings) -> Iterator[BadSetting]:
    try:
        address_of(settings.market, settings.binance_ws_url)
        streams_of(settings.market, settings.fed_pairs, settings.fed_streams)
    except BadSetting as problem:
        yield problem


def _of_retention(settings: Settings) -> Iterator[BadSetting]:
    if settings.retention_days is None:
        return
    # Costs more than all else here, and is rarely needed.
    from data_manager.domain.datasets import DATASETS  # noqa: PLC0415
    from data_manager.domain.retention import parse_days  # noqa: PLC0415

    try:
        parse_days(settings.retention_days, DATASETS)
    except BadSetting as problem:
        yield problem
    if settings.mongodb_expire_by_index:
        rule = "must be unset with MONGODB_EXPIRE_BY_INDEX: an index goes by the table of datasets alone"
        yield BadSetting("RETENTION_DAYS", settings.retention_days, rule)


class SettingRow(NamedTuple):
    """One line of `data-manager config`. value and default read as an operator would write them, no credentials."""

    name: str
    value: str
    unit: str
    default: str
    source: Literal["default", "environment"]
    valid: str
    meaning: str


def describe(settings: Settings, environ: Mapping[str, str]) -> list[SettingRow]:
    """Every setting in force, in the order of declaration."""
    given = {name for name, _ in _given(environ)}
    return [
        SettingRow(
            name=name.upper(),
            value=shown(setting, getattr(settings, name)),
            unit=setting.unit,
            default=shown(setting, setting.default),
            source="environment" if name in given else "default",
            valid=valid_text(setting, TYPES[name]).removeprefix("must be ").removeprefix("must "),
            meaning=setting.meaning,
        )
        for name, setting in SETTINGS.items()
    ]


def warnings(environ: Mapping[str, str]) -> list[str]:
    """Variables that look as if they were meant for us, but that nothing reads: likely misspelt, or not yet built."""
    ours = [name.upper() for name in SETTINGS]
    found = []
    for name in sorted(set(environ) - set(ours)):
        close = get_close_matches(name.upper(), ours, n=1, cutoff=0.85)
        if name in _DECLINED:
            found.append(f"{name} is set, but {_DECLINED[name]}")
        elif _OF_THE_PREDECESSOR.fullmatch(name):
            found.append(f"{name} is set, but this version does not read it")
        elif close:
            found.append(f"{name} is set, but nothing reads it: did you mean {close[0]}?")
    return [*found, *_without_a_server(environ), *_rows_alone_are_shared(environ)]


def _without_a_server(environ: Mapping[str, str]) -> Iterator[str]:
    """Logins of a server that is not named: what was meant for it goes into the files in DATA_DIR."""
    given = {name.upper() for name, _ in _given(environ)}
    for kind, naming in (
        ("MYSQL", ("META_URL", "MYSQL_URI", "MYSQL_HOST")),
        ("MONGODB", ("MONGODB_URL", "MONGODB_HOST")),
    ):
        parts = sorted(given & {f"{kind}_{part}" for part in ("PORT", "USER", "PASSWORD", "DB")})
        if parts and given.isdisjoint(naming):
            yield f"{parts[0]} is set, but no server is named: set {kind}_HOST, which has no default"


def _rows_alone_are_shared(environ: Mapping[str, str]) -> Iterator[str]:
    """Replicas that have only the rows in common: each has its own lease, findings and jobs."""
    given = dict(_given(environ))
    shared = "mysql_uri" in given or "mysql_host" in given
    in_a_file = given["meta_url"].startswith("sqlite") if "meta_url" in given else not shared
    if in_a_file and not given.keys().isdisjoint({"mongodb_url", "mongodb_host"}):
        yield (
            "MongoDB holds the rows, but the metadata is in a file: with more than one process set MYSQL_URI too, for "
            "each of them leads, finds and mends by what is in a DATA_DIR of its own"
        )


_OF_KUBERNETES = re.compile(r"(tcp|udp)://\S+:\d+")  # beside a service named mysql every pod is told its MYSQL_PORT
_OF_THE_PREDECESSOR = re.compile(
    r"(POSTGRES|RAW_QUERY)_\w+|BINANCE_API_SECRET"
    r"|ENABLE_(ANALYTICS|LEADER_ELECTION)"
    r"|API_(WORKERS|DEFAULT_PAGE_SIZE|MAX_BATCH_SIZE|QUERY_TIMEOUT)"
    r"|ANALYTICS_INTERVAL|HEALTH_CHECK_PORT|OTEL_ENABLED"
    r"|DEFAULT_(VOLATILITY|VOLUME|TREND)_WINDOW"
    r"|INITIAL_STARTUP_DELAY|CANDLE_DATABASE_TYPE"
)
_DECLINED = {
    "ENABLE_DUPLICATE_REMOVAL": "there is nothing to remove: a row is stored once per key, repeats are counted",
    "DUPLICATE_RESOLUTION_STRATEGY": (
        "which of two rows with one key stays is a rule of the dataset, see docs/retention.md: trades keep the first, "
        "candles the final one"
    ),
}
"""Variables of the predecessor that ask for what cannot be had here, and why."""

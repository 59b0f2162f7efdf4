"""Settings: the environment, read once, checked, and frozen.

A setting is one line of the class Settings. Its variable is the field's name in capitals; type, default, unit, bounds
and meaning stand in that line and nowhere else: `data-manager config`, docs/settings.md and .env.example are made
from it. An empty variable counts as unset.
"""
# ruff: noqa: RUF009 - the defaults are declarations: made once, frozen

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints
from urllib.parse import quote_plus

from data_manager.domain.errors import BadSetting


class Setting(NamedTuple):
    """What one variable may say. Bounds are inclusive; pattern must match the whole text."""

    default: Any
    meaning: str
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    pattern: str = ".*"
    valid: str = ""  # what the pattern asks for, in words
    unset: str = ""  # what holds without a value, where the default is None
    secret: bool = False  # may hold a credential: never shown with it


def _setting(default: Any, meaning: str, **rest: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(default, meaning, **rest)})


def _size(default: int, meaning: str, at_least: int = 1_048_576, at_most: int = 2**40) -> Any:
    return _setting(default, meaning, unit="bytes", at_least=at_least, at_most=at_most)


def _port(default: int, meaning: str, at_least: int = 0) -> Any:
    return _setting(default, meaning, unit="port", at_least=at_least, at_most=65_535)


def _host(default: str, meaning: str) -> Any:
    valid = "must be an address or host name such as 127.0.0.1, 0.0.0.0 or ::1"
    return _setting(default, meaning, pattern=r"[A-Za-z0-9.:_-]+", valid=valid)


def _name(default: str, meaning: str) -> Any:
    return _setting(default, meaning, pattern=r"[A-Za-z0-9_-]{1,64}", valid="must be 1 to 64 letters, digits, _ or -")


def _login(meaning: str, secret: bool = False) -> Any:
    return _setting(None, meaning, unset="none", secret=secret)


def _file(meaning: str, unset: str = "none") -> Any:
    return _setting(None, meaning, unset=unset, valid="must be a file")


_SERVER = r"(nats|tls|ws|wss)://[^\s/,]+"


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """Every setting in force. The values were checked: nothing below needs to check them again."""

    environment: str = _name("production", "Where this runs, as logs name it.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = _setting(
        "INFO", "Least severe log line that is written."
    )
    log_format: Literal["json", "console"] = _setting(
        "json", "json: one object per line, for machines; console: aligned text, for people."
    )
    market: Literal["um", "cm", "spot"] = _setting(
        "um", "Market of the events on the bus: USDⓈ-M futures, COIN-M futures or spot. Never mixed."
    )

    data_dir: Path = _setting(
        Path("data"), "Folder of the embedded store, the metadata and our own bus's files.", valid="must be a folder"
    )
    meta_url: str | None = _setting(
        None,
        "Database of the metadata.",
        secret=True,
        unset="a SQLite file in DATA_DIR",
        pattern=r"(sqlite|mysql|mariadb)(\+\w+)?://.+",
        valid="must be like sqlite:////folder/file or mysql://user:password@host:3306/database",
    )
    mysql_uri: str | None = _setting(
        None,
        "Database of the metadata, as the predecessor named it; META_URL goes before it.",
        secret=True,
        unset="MYSQL_HOST and its like, if that is set",
        pattern=r"(mysql|mariadb)(\+\w+)?://.+",
        valid="must be like mysql://user:password@host:3306/database",
    )
    mysql_host: str | None = _login("Host of the MySQL or MariaDB server that holds the metadata.")
    mysql_port: int = _port(3306, "Its port.", at_least=1)
    mysql_user: str = _name("root", "User there.")
    mysql_password: str | None = _login("Password there.", secret=True)
    mysql_db: str = _name("petrosa_data_manager", "Database there.")

    mongodb_url: str | None = _setting(
        None,
        "MongoDB that holds the rows. A database named in it is where the user is known, never where rows go.",
        secret=True,
        unset="MONGODB_HOST and its like, if that is set; else the embedded store",
        pattern=r"mongodb(\+srv)?://.+",
        valid="must be like mongodb://user:password@host:27017/?replicaSet=rs0",
    )
    mongodb_host: str | None = _login("Host of the MongoDB that holds the rows.")
    mongodb_port: int = _port(27017, "Its port.", at_least=1)
    mongodb_user: str | None = _login("User there.")
    mongodb_password: str | None = _login("Password there.", secret=True)
    mongodb_db: str = _name("petrosa_data_manager", "Database there that holds the rows.")
    store_bytes_max: int = _size(
        0, "Bytes the rows may take, 0 for no bound. From 90 % on the least valuable streams are shed.", at_least=0
    )
    store_memory_bytes: int = _size(134_217_728, "Decoded rows the store keeps in memory for fast answers, at most.")

    nats_url: str | None = _setting(
        None,
        "NATS servers that carry the events.",
        secret=True,
        unset="`run` starts its own server, and the other commands use that",
        pattern=rf"{_SERVER}(\s*,\s*{_SERVER})*",
        valid="must be like nats://host:4222 (or tls:// ws:// wss://), several joined by commas",
    )
    nats_user: str | None = _login("User at the NATS servers.")
    nats_password: str | None = _login("Password at the NATS servers.", secret=True)
    nats_token: str | None = _login("Token for the NATS servers.", secret=True)
    nats_creds_file: Path | None = _file("Credentials file for the NATS servers (JWT and seed).")
    nats_tls_ca_file: Path | None = _file("Authorities that vouch for the NATS servers, PEM.", "the system's")
    nats_tls_cert_file: Path | None = _file("Certificate that we show the NATS servers, PEM.")
    nats_tls_key_file: Path | None = _file("Key of that certificate, PEM.")
    nats_own_port: int = _port(4222, "Port of the server that `run` starts when NATS_URL is unset.", at_least=1)
    nats_consumer_subject: str = _setting(
        "binance.futures.websocket.data",
        "Subject the publisher sends events to.",
        pattern=r"(?!\$)[^\s.*>]+(\.[^\s.*>]+)*(\.\*|\.>)?",
        valid="must be a NATS subject: words joined by dots, the last of them may be * or >",
    )
    nats_mode: Literal["auto", "jetstream", "core"] = _setting(
        "auto",
        "jetstream: a durable stream, nothing is lost while we are away; core: a queue group, losses are counted; "
        "auto: jetstream where the server has it.",
    )
    nats_stream: str = _name("MARKET_EVENTS", "JetStream stream that captures the subject; created when absent.")
    nats_consumer: str = _name("petrosa-data-manager", "Durable consumer (core: queue group) that all replicas share.")
    nats_connect_timeout: float = _setting(
        10.0, "How long one attempt to connect may take.", unit="s", at_least=0.1, at_most=300
    )
    nats_reconnect_time_wait: float = _setting(
        2.0, "Pause between two attempts to connect.", unit="s", at_least=0.01, at_most=300
    )
    nats_max_reconnect_attempts: int = _setting(
        -1,
        "Attempts to connect before the process gives up; -1 keeps trying.",
        unit="attempts",
        at_least=-1,
        at_most=1_000_000,
    )
    nats_stream_max_bytes: int = _size(
        2_147_483_648, "Size at which the stream lets its oldest messages go: room for what comes while we are away."
    )
    nats_stream_max_age_s: int = _setting(
        259_200, "Age at which the stream lets a message go.", unit="s", at_least=60, at_most=31_536_000
    )
    nats_ack_wait_s: float = _setting(
        30.0, "How long the server waits for our ack before it delivers again.", unit="s", at_least=1, at_most=3_600
    )

    max_batch_size: int = _setting(
        10_000, "Rows that make a flush to the store due.", unit="rows", at_least=1, at_most=1_000_000
    )
    flush_bytes_max: int = _size(8_388_608, "Payload bytes that make a flush due.", 1_024, 1_073_741_824)
    flush_age_ms: int = _setting(
        2, "Age of the oldest waiting row that makes a flush due.", unit="ms", at_least=0, at_most=60_000
    )
    book_label_tolerance_percent: float = _setting(
        10.0,
        "How far a book without a symbol may be from the last price of the symbol its label names, before it is "
        "quarantined; allowed once more for every minute between the two.",
        unit="%",
        at_least=0.1,
        at_most=1_000_000,
    )
    message_queue_size: int = _setting(
        20_000,
        "Messages taken from the bus and not yet stored, at most.",
        unit="messages",
        at_least=1,
        at_most=200_000,
    )
    dead_letters_max: int = _setting(
        10_000, "Dead letters kept, at most; the oldest make room.", unit="letters", at_least=1, at_most=10_000_000
    )
    dead_letters_bytes_max: int = _size(67_108_864, "Bytes of dead letters kept, at most.", 65_536)

    leader_election_timeout: int = _setting(
        30, "How long a leader that falls silent stays leader.", unit="s", at_least=2, at_most=3_600
    )
    leader_election_heartbeat_interval: int = _setting(
        10, "Pause between two tries to become or to stay leader.", unit="s", at_least=1, at_most=1_200
    )

    enable_api: bool = _setting(True, "Whether the HTTP API is served.")
    api_host: str = _host("127.0.0.1", "Address the HTTP API listens on.")
    api_port: int = _port(8000, "Port of the HTTP API; 0 takes any free one.")
    api_max_page_size: int = _setting(
        1_000, "Largest limit a request may ask for.", unit="rows", at_least=1, at_most=10_000
    )
    metrics_host: str = _host("127.0.0.1", "Address the Prometheus metrics listen on.")
    metrics_port: int = _port(9090, "Port of the Prometheus metrics; 0 takes any free one.")
    drain_timeout_s: float = _setting(
        5.0,
        "How long a stop may take to store what was already taken from the bus.",
        unit="s",
        at_least=0.1,
        at_most=600,
    )

    @property
    def metadata_url(self) -> str:
        """META_URL, MYSQL_URI, the URL that MYSQL_HOST and its like make, or the file in DATA_DIR: the first set."""
        if self.meta_url or self.mysql_uri:
            return self.meta_url or self.mysql_uri or ""
        if self.mysql_host:
            login = _login_of(self.mysql_user, self.mysql_password)
            return f"mysql://{login}{_address(self.mysql_host, self.mysql_port)}/{self.mysql_db}"
        return f"sqlite:///{self.data_dir / 'metadata.sqlite'}"

    @property
    def metadata_kind(self) -> Literal["sqlite", "mysql"]:
        """Whether metadata_url names a file or a server."""
        return "sqlite" if self.metadata_url.startswith("sqlite") else "mysql"

    @property
    def rows_url(self) -> str | None:
        """MONGODB_URL, or what MONGODB_HOST and its like make; None: the embedded store holds the rows."""
        if self.mongodb_url or not self.mongodb_host:
            return self.mongodb_url
        login = _login_of(self.mongodb_user, self.mongodb_password) if self.mongodb_user else ""
        return f"mongodb://{login}{_address(self.mongodb_host, self.mongodb_port)}/"

    @property
    def nats_servers(self) -> list[str]:
        """The servers of NATS_URL; the one that `run` starts when it is unset."""
        return re.split(r"\s*,\s*", self.nats_url or f"nats://localhost:{self.nats_own_port}")

    def __repr__(self) -> str:
        """The settings with credentials hidden: a log line or a traceback tells none."""
        shown = (f"{name}={_shown(setting, getattr(self, name))}" for name, setting in SETTINGS.items())
        return f"Settings({', '.join(shown)})"


def _login_of(user: str, password: str | None) -> str:
    """The part of a URL before the host; whatever stands in a password is escaped."""
    return quote_plus(user) + (f":{quote_plus(password)}" if password else "") + "@"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


SETTINGS: dict[str, Setting] = {one.name: one.metadata["setting"] for one in fields(Settings)}
"""Every declaration by field name, in order."""

_TYPES: dict[str, Any] = get_type_hints(Settings)


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
            values[name] = _parse(SETTINGS[name], _TYPES[name], text)
        except ValueError as rule:
            problems.append(BadSetting(name.upper(), _shown(SETTINGS[name], text), str(rule)))
    settings = Settings(**values)
    return settings, (*problems, *_contradictions(settings))


def _given(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Field and text of every variable of ours that is set to something."""
    for name in SETTINGS:
        text = environ.get(name.upper(), "").strip()
        if text:
            yield name, text


def _parse(setting: Setting, kind: Any, text: str) -> object:
    """The value text stands for; ValueError saying what would be valid."""
    choices = _choices(kind)
    if choices:
        if text.casefold() not in choices:
            raise ValueError(_valid(setting, kind))
        return choices[text.casefold()]
    if kind in (int, float):
        return _number(setting, kind, text)
    if re.fullmatch(setting.pattern, text) is None:
        raise ValueError(_valid(setting, kind))
    return Path(text).expanduser() if kind in (Path, Path | None) else text


def _choices(kind: Any) -> dict[str, object]:
    if kind is bool:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return {choice.casefold(): choice for choice in get_args(kind)} if get_origin(kind) is Literal else {}


def _number(setting: Setting, kind: type[int] | type[float], text: str) -> float:
    assert setting.at_least is not None
    assert setting.at_most is not None
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(_valid(setting, kind)) from None
    if not setting.at_least <= value <= setting.at_most:  # a NaN lies nowhere
        raise ValueError(_valid(setting, kind))
    return value


def _valid(setting: Setting, kind: Any) -> str:
    """What would be valid, as the end of a sentence that begins with the variable."""
    if kind in (int, float):
        what = "a whole number" if kind is int else "a number"
        unit = f" {setting.unit}" if setting.unit not in ("", "port") else ""
        return f"must be {what} from {setting.at_least:.16g} to {setting.at_most:.16g}{unit}"
    choices = _choices(kind)
    return f"must be one of {' '.join(choices if kind is bool else get_args(kind))}" if choices else setting.valid


def _contradictions(settings: Settings) -> Iterator[BadSetting]:
    """Settings that are valid each, but not together."""
    if settings.api_port == settings.metrics_port != 0 and settings.api_host == settings.metrics_host:
        yield BadSetting("METRICS_PORT", settings.metrics_port, "must differ from API_PORT")
    if (settings.nats_tls_cert_file is None) != (settings.nats_tls_key_file is None):
        yield BadSetting(
            "NATS_TLS_KEY_FILE", settings.nats_tls_key_file, "must be set together with NATS_TLS_CERT_FILE"
        )
    if settings.leader_election_heartbeat_interval * 2 > settings.leader_election_timeout:
        yield BadSetting(
            "LEADER_ELECTION_HEARTBEAT_INTERVAL",
            settings.leader_election_heartbeat_interval,
            "must be at most half of LEADER_ELECTION_TIMEOUT",
        )
    if settings.flush_age_ms >= settings.nats_ack_wait_s * 1_000:
        yield BadSetting("FLUSH_AGE_MS", settings.flush_age_ms, "must be shorter than NATS_ACK_WAIT_S")


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
            value=_shown(setting, getattr(settings, name)),
            unit=setting.unit,
            default=_shown(setting, setting.default),
            source="environment" if name in given else "default",
            valid=_valid(setting, _TYPES[name]).removeprefix("must be ").removeprefix("must "),
            meaning=setting.meaning,
        )
        for name, setting in SETTINGS.items()
    ]


def _shown(setting: Setting, value: object) -> str:
    """value as text: a flag as true or false, an absent value as what holds then, a secret without its credential."""
    if value is None:
        return f"(unset: {setting.unset})"
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return _redacted(text) if setting.secret else text


def _redacted(text: str) -> str:
    """A URL without what stands before its @ and without its query, where drivers take passwords; *** otherwise."""
    if "://" not in text:
        return "***"
    parts = re.split(r",(?=\s*[a-z+]+://)", text)
    return ",".join(re.sub(r"\?.*$", "?***", re.sub(r"://.*@", "://***@", part)) for part in parts)


def warnings(environ: Mapping[str, str]) -> list[str]:
    """Variables that look as if they were meant for us, but that nothing reads: likely misspelt, or not yet built."""
    ours = [name.upper() for name in SETTINGS]
    found = []
    for name in sorted(set(environ) - set(ours)):
        close = get_close_matches(name.upper(), ours, n=1, cutoff=0.85)
        if _OF_THE_PREDECESSOR.fullmatch(name):
            found.append(f"{name} is set, but this version does not read it")
        elif close:
            found.append(f"{name} is set, but nothing reads it: did you mean {close[0]}?")
    return found


_OF_THE_PREDECESSOR = re.compile(
    r"(POSTGRES|BINANCE|RAW_QUERY)_\w+"
    r"|ENABLE_(AUDITOR|BACKFILLER|ANALYTICS|LEADER_ELECTION|AUTO_BACKFILL|DUPLICATE_REMOVAL)"
    r"|API_(WORKERS|DEFAULT_PAGE_SIZE|MAX_BATCH_SIZE|QUERY_TIMEOUT)"
    r"|(AUDIT|ANALYTICS|HEALTH_CHECK)_INTERVAL|HEALTH_CHECK_PORT|OTEL_ENABLED|SUPPORTED_PAIRS|MAX_CONCURRENT_TASKS"
    r"|GAP_TOLERANCE_SECONDS|MIN_GAP_SIZE_SECONDS|DEFAULT_(VOLATILITY|VOLUME|TREND)_WINDOW|MIN_AUTO_BACKFILL_GAP"
    r"|MAX_AUTO_BACKFILL_JOBS|DUPLICATE_RESOLUTION_STRATEGY|INITIAL_STARTUP_DELAY|CANDLE_DATABASE_TYPE"
)

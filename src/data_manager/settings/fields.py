"""Every setting, declared once.

A setting is one line of the class Settings. Its variable is the field's name in capitals; type, default, unit, bounds
and meaning stand in that line and nowhere else: `data-manager config`, docs/settings.md and .env.example are made
from it.
"""
# ruff: noqa: RUF009 - the defaults are declarations: made once, frozen

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints
from urllib.parse import quote

from data_manager.adapters.binance.feed_names import PAIRS, STREAMS
from data_manager.settings.declaring import (
    NATS_SERVER,
    Setting,
    a_file,
    a_host,
    a_login,
    a_name,
    a_port,
    a_server,
    a_setting,
    a_size,
    an_address,
    shown,
)


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """Every setting in force. The values were checked: nothing below needs to check them again."""

    environment: str = a_name("production", "Where this runs, as logs name it.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = a_setting(
        "INFO", "Least severe log line that is written."
    )
    log_format: Literal["json", "console"] = a_setting(
        "json", "json: one object per line, for machines; console: aligned text, for people."
    )
    market: Literal["um", "cm", "spot"] = a_setting(
        "um", "Market of the events on the bus: USDⓈ-M futures, COIN-M futures or spot. Never mixed."
    )

    data_dir: Path = a_setting(
        Path("data"), "Folder of the embedded store, the metadata and our own bus's files.", valid="must be a folder"
    )
    meta_url: str | None = a_setting(
        None,
        "Database of the metadata.",
        secret=True,
        unset="a SQLite file in DATA_DIR",
        pattern=r"(sqlite|mysql|mariadb)(\+\w+)?://.+",
        valid="must be like sqlite:////folder/file or mysql://user:password@host:3306/database",
    )
    mysql_uri: str | None = a_setting(
        None,
        "Database of the metadata, as the predecessor named it; META_URL goes before it.",
        secret=True,
        unset="MYSQL_HOST and its like, if that is set",
        pattern=r"(mysql|mariadb)(\+\w+)?://.+",
        valid="must be like mysql://user:password@host:3306/database",
    )
    mysql_host: str | None = a_server("Host of the MySQL or MariaDB server that holds the metadata.", "MYSQL_PORT")
    mysql_port: int = a_port(3306, "Its port.", at_least=1)
    mysql_user: str = a_setting(
        "root", "User there.", pattern=r"\S{1,80}", valid="must be 1 to 80 signs without a space"
    )
    mysql_password: str | None = a_login("Password there.", secret=True)
    mysql_db: str = a_name("petrosa_data_manager", "Database there.")

    mongodb_url: str | None = a_setting(
        None,
        "MongoDB that holds the rows. A database named in it is where the user is known, never where rows go.",
        secret=True,
        unset="MONGODB_HOST and its like, if that is set; else the embedded store",
        pattern=r"mongodb(\+srv)?://.+",
        valid="must be like mongodb://user:password@host:27017/?replicaSet=rs0",
    )
    mongodb_host: str | None = a_server("Host of the MongoDB that holds the rows.", "MONGODB_PORT")
    mongodb_port: int = a_port(27017, "Its port.", at_least=1)
    mongodb_user: str | None = a_login("User there.")
    mongodb_password: str | None = a_login("Password there.", secret=True)
    mongodb_db: str = a_name("petrosa_data_manager", "Database there that holds the rows.")
    mongodb_expire_by_index: bool = a_setting(
        False,
        "Whether MongoDB deletes old rows itself, by their own time and uncertified; else our retention does.",
    )
    store_bytes_max: int = a_size(
        0, "Bytes the rows may take, 0 for no bound. From 90 % on the least valuable streams are shed.", at_least=0
    )
    store_memory_bytes: int = a_size(134_217_728, "Decoded rows the store keeps in memory for fast answers, at most.")

    nats_url: str | None = a_setting(
        None,
        "NATS servers that carry the events.",
        secret=True,
        unset="`run` starts its own server, and the other commands use that",
        pattern=rf"{NATS_SERVER}(\s*,\s*{NATS_SERVER})*",
        valid="must be like nats://host:4222 (or tls:// ws:// wss://), several joined by commas",
    )
    nats_user: str | None = a_login("User at the NATS servers.")
    nats_password: str | None = a_login("Password at the NATS servers.", secret=True)
    nats_token: str | None = a_login("Token for the NATS servers.", secret=True)
    nats_creds_file: Path | None = a_file("Credentials file for the NATS servers (JWT and seed).")
    nats_tls_ca_file: Path | None = a_file("Authorities that vouch for the NATS servers, PEM.", "the system's")
    nats_tls_cert_file: Path | None = a_file("Certificate that we show the NATS servers, PEM.")
    nats_tls_key_file: Path | None = a_file("Key of that certificate, PEM.")
    nats_own_port: int = a_port(4222, "Port of the server that `run` starts when NATS_URL is unset.", at_least=1)
    nats_consumer_subject: str = a_setting(
        "binance.futures.websocket.data",
        "Subject the publisher sends events to.",
        pattern=r"(?!\$)[^\s.*>]+(\.[^\s.*>]+)*(\.\*|\.>)?",
        valid="must be a NATS subject: words joined by dots, the last of them may be * or >",
    )
    nats_mode: Literal["auto", "jetstream", "core"] = a_setting(
        "auto",
        "jetstream: a durable stream, nothing is lost while we are away; core: a queue group, losses are counted; "
        "auto: jetstream where the server has it.",
    )
    nats_stream: str = a_name("MARKET_EVENTS", "JetStream stream that captures the subject; created when absent.")
    nats_consumer: str = a_name("petrosa-data-manager", "Durable consumer (core: queue group) that all replicas share.")
    nats_connect_timeout: float = a_setting(
        10.0, "How long one attempt to connect may take.", unit="s", at_least=0.1, at_most=300
    )
    nats_reconnect_time_wait: float = a_setting(
        2.0, "Pause between two attempts to connect.", unit="s", at_least=0.01, at_most=300
    )
    nats_max_reconnect_attempts: int = a_setting(
        -1,
        "Attempts to connect before the process gives up; -1 keeps trying.",
        unit="attempts",
        at_least=-1,
        at_most=1_000_000,
    )
    nats_stream_max_bytes: int | None = a_setting(
        None,
        "Size at which the stream lets its oldest messages go: room for what comes while we are away.",
        unit="bytes",
        unset="2147483648, or less where the server has less room",
        at_least=1_048_576,
        at_most=2**40,
    )
    nats_stream_max_age_s: int = a_setting(
        259_200, "Age at which the stream lets a message go.", unit="s", at_least=60, at_most=31_536_000
    )
    nats_ack_wait_s: float = a_setting(
        30.0, "How long the server waits for our ack before it delivers again.", unit="s", at_least=1, at_most=3_600
    )

    enable_feed: bool = a_setting(
        True, "Whether `run` takes live data from the exchange by itself. `data-manager feed` does so in any case."
    )
    binance_ws_url: str | None = a_setting(
        None,
        "Address of the exchange's websockets, without a route.",
        unset="the exchange's own for MARKET",
        pattern=r"wss?://[^\s?#]+",
        valid="must be like wss://fstream.binance.com",
    )
    supported_pairs: str | None = a_setting(
        None,
        "Symbols whose streams are fed, joined by commas.",
        unset="BTCUSDT ETHUSDT BNBUSDT ADAUSDT SOLUSDT LINKUSDT LTCUSDT XRPUSDT, or the like of MARKET",
        pattern=r"[^\s,]+(\s*,\s*[^\s,]+)*",
        valid="must be symbols such as BTCUSDT, joined by commas",
    )
    binance_streams: str | None = a_setting(
        None,
        "Streams that are fed of each of them, joined by commas: trade aggTrade kline_1m depth20@100ms depth@100ms "
        "bookTicker markPrice@1s ticker miniTicker forceOrder; or whole names such as btcusdt@trade and "
        "!markPrice@arr@1s.",
        unset="trade, aggTrade, candles of 1m 5m 15m 1h 4h 1d, depth20@100ms, markPrice@1s, ticker, forceOrder",
        pattern=r"[^\s,]+(\s*,\s*[^\s,]+)*",
        valid="must be streams such as trade or kline_1m, joined by commas",
    )
    binance_streams_per_socket: int = a_setting(
        200, "Streams that share one websocket, at most.", unit="streams", at_least=1, at_most=1_024
    )
    binance_lag_max_ms: int = a_setting(
        5_000, "How much later than at its best a websocket may deliver before another one takes its place.", unit="ms",
        at_least=100, at_most=3_600_000,
    )  # fmt: skip

    binance_fapi_base_url: str = an_address("https://fapi.binance.com", "REST of USDⓈ-M futures")
    binance_dapi_base_url: str = an_address("https://dapi.binance.com", "REST of COIN-M futures")
    binance_api_base_url: str = an_address("https://api.binance.com", "REST of the spot market")
    binance_archive_base_url: str = an_address("https://data.binance.vision", "the venue's archives")
    binance_api_key: str | None = a_login("Key for the venue's REST: single trades of the last month need one.", True)
    binance_rate_limit: str | None = a_setting(
        None,
        "Request weight that may be spent per minute, where that is less than BINANCE_WEIGHT_CEILING_PERCENT allows.",
        unset="that alone decides",
        pattern=r"[1-9][0-9]{0,5}(/min)?",
        valid="must be a whole number, such as 1200/min",
    )
    binance_weight_ceiling_percent: float = a_setting(
        60.0,
        "Share of the venue's request limits that is ours: they are counted by address, others may ask from it too.",
        unit="%",
        at_least=1,
        at_most=95,
    )

    max_batch_size: int = a_setting(
        10_000, "Rows that make a flush to the store due.", unit="rows", at_least=1, at_most=1_000_000
    )
    flush_bytes_max: int = a_size(8_388_608, "Payload bytes that make a flush due.", 1_024, 1_073_741_824)
    flush_age_ms: int = a_setting(
        2,
        "Shortest time between two flushes that are not full; a row waits no longer for company.",
        unit="ms",
        at_least=0,
        at_most=60_000,
    )
    book_label_tolerance_percent: float = a_setting(
        10.0,
        "How far a book without a symbol may be from the last price of the symbol its label names, before it is "
        "quarantined; allowed once more for every minute between the two.",
        unit="%",
        at_least=0.1,
        at_most=1_000_000,
    )
    message_queue_size: int = a_setting(
        20_000,
        "Messages taken from the bus and not yet stored, at most.",
        unit="messages",
        at_least=1,
        at_most=200_000,
    )
    dead_letters_max: int = a_setting(
        10_000, "Dead letters kept, at most; the oldest make room.", unit="letters", at_least=1, at_most=10_000_000
    )
    dead_letters_bytes_max: int = a_size(67_108_864, "Bytes of dead letters kept, at most.", 65_536)

    leader_election_timeout: int = a_setting(
        30, "How long a leader that falls silent stays leader.", unit="s", at_least=2, at_most=3_600
    )
    leader_election_heartbeat_interval: int | None = a_setting(
        None,
        "Pause between two tries to become or to stay leader.",
        unit="s",
        at_least=1,
        at_most=1_200,
        unset="a third of LEADER_ELECTION_TIMEOUT, at most 10 s",
    )

    enable_auditor: bool = a_setting(
        True, "Whether what is held is audited again and again. On demand it is audited all the same."
    )
    audit_interval: int = a_setting(
        300, "Pause between two audits of everything that changed.", unit="s", at_least=1, at_most=86_400
    )
    gap_tolerance_seconds: int = a_setting(
        10,
        "How long a row may be on its way before its absence is a hole. However long: every hole is found, only later.",
        unit="s",
        at_least=0,
        at_most=3_600,
    )
    min_gap_size_seconds: int = a_setting(
        0,
        "Holes shorter than this are entered and stand in every answer's condition, but raise no finding.",
        unit="s",
        at_least=0,
        at_most=86_400,
    )

    health_check_interval: int = a_setting(
        60, "Pause between two looks at the health of every series.", unit="s", at_least=1, at_most=86_400
    )
    health_retention_days: int = a_setting(
        90, "How long the history of health, the audit log and alerts that are over are kept.",
        unit="days", at_least=1, at_most=3_650,
    )  # fmt: skip
    completeness_target_percent: float = a_setting(
        99.9, "Completeness that is promised of each series: error budgets are counted from it.",
        unit="%", at_least=0, at_most=100,
    )  # fmt: skip
    alert_webhook_url: str | None = a_setting(
        None,
        "Where alerts are posted as JSON with a `text`, as Slack and its like read it.",
        secret=True,
        unset="no webhook",
        pattern=r"https?://[^\s/?#@]+(:\d+)?([/?#]\S*)?",
        valid="must be like https://hooks.example.com/services/secret, without user and password",
    )
    alert_nats_subject: str = a_setting(
        "alerts.data-manager",
        "Alerts are published on NATS under this, as <subject>.<severity>.<kind>; off: they are not.",
        pattern=r"(?!\$)[^\s.*>]+(\.[^\s.*>]+)*",
        valid="must be a NATS subject without * and >, or off",
    )
    alerts_per_minute: int = a_setting(
        10, "Messages a minute of one kind of alert; what is more is told together.", unit="messages",
        at_least=1, at_most=1_000,
    )  # fmt: skip

    enable_certifier: bool = a_setting(
        True, "Whether every day that is over and audited is certified. On demand it is certified all the same."
    )
    enable_retention: bool = a_setting(
        True, "Whether rows older than their retention are let go, each day of them certified first."
    )
    retention_interval: int = a_setting(
        900, "Pause between two looks for rows that are old enough to go.", unit="s", at_least=1, at_most=86_400
    )
    retention_days: str | None = a_setting(
        None,
        "Days that rows are kept, where the table of datasets says otherwise than wanted: by dataset or interval.",
        unset="the days of the table of datasets",
        pattern=r"[\w.]+=(\d{1,5}|forever)(\s*,\s*[\w.]+=(\d{1,5}|forever))*",
        valid="must be like trade=30,candle.1m=365,depth=forever",
    )
    retention_rows_max: int = a_setting(
        10_000_000, "Rows one look may let go, give or take a day of one series; the next goes on.", unit="rows",
        at_least=1, at_most=1_000_000_000,
    )  # fmt: skip

    enable_backfiller: bool = a_setting(True, "Whether backfill jobs are taken and run.")
    max_concurrent_tasks: int = a_setting(
        4, "Backfill jobs that run at a time; they share the exchange's limits.", unit="jobs", at_least=1, at_most=64
    )
    enable_auto_backfill: bool = a_setting(
        True, "Whether what audits find missing is fetched without being asked for, and looked at again."
    )
    min_auto_backfill_gap: int = a_setting(
        0, "Shorter holes are left to people; 0: every hole is mended.", unit="s", at_least=0, at_most=31_536_000
    )
    max_auto_backfill_jobs: int = a_setting(
        5, "Jobs made by auto-backfill that are open at a time.", unit="jobs", at_least=1, at_most=1_000
    )
    auto_backfill_ask_again_s: float = a_setting(
        60.0,
        "How long after a source said it has nothing it is asked once more before that counts; also the first pause "
        "after an attempt in vain, which then grows to a day.",
        unit="s",
        at_least=0.1,
        at_most=86_400,
    )

    enable_api: bool = a_setting(True, "Whether the HTTP API is served.")
    api_host: str = a_host("127.0.0.1", "Address the HTTP API listens on.")
    api_port: int = a_port(8000, "Port of the HTTP API; 0 takes any free one.")
    api_max_page_size: int = a_setting(
        1_000, "Largest limit a request may ask for.", unit="rows", at_least=1, at_most=10_000
    )
    metrics_host: str = a_host("127.0.0.1", "Address the Prometheus metrics listen on.")
    metrics_port: int = a_port(9090, "Port of the Prometheus metrics; 0 takes any free one.")
    drain_timeout_s: float = a_setting(
        4.0,
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
    def heartbeat_s(self) -> float:
        """LEADER_ELECTION_HEARTBEAT_INTERVAL, or what fits LEADER_ELECTION_TIMEOUT."""
        return self.leader_election_heartbeat_interval or min(10.0, self.leader_election_timeout / 3)

    @property
    def fed_pairs(self) -> list[str]:
        """SUPPORTED_PAIRS, or the market's usual ones."""
        return re.split(r"\s*,\s*", self.supported_pairs) if self.supported_pairs else PAIRS[self.market]

    @property
    def fed_streams(self) -> list[str]:
        """BINANCE_STREAMS, or the market's usual ones."""
        return re.split(r"\s*,\s*", self.binance_streams) if self.binance_streams else STREAMS[self.market]

    @property
    def stream_bytes(self) -> int:
        """NATS_STREAM_MAX_BYTES, or the usual size."""
        return self.nats_stream_max_bytes or 2**31

    @property
    def subject_is_shared(self) -> bool:
        """Whether NATS_CONSUMER_SUBJECT is a wildcard, so that what other services send comes too."""
        return self.nats_consumer_subject[-1] in "*>"

    @property
    def feed_subject(self) -> str:
        """Where the feed sends: NATS_CONSUMER_SUBJECT, with a word of ours for its wildcard."""
        return re.sub(r"[*>]$", "feed", self.nats_consumer_subject)

    @property
    def binance_weight_max(self) -> int | None:
        """BINANCE_RATE_LIMIT as a number, weight per minute."""
        return int(self.binance_rate_limit.partition("/")[0]) if self.binance_rate_limit else None

    @property
    def nats_servers(self) -> list[str]:
        """The servers of NATS_URL; the one that `run` starts when it is unset."""
        return re.split(r"\s*,\s*", self.nats_url or f"nats://localhost:{self.nats_own_port}")

    def __repr__(self) -> str:
        """The settings with credentials hidden: a log line or a traceback tells none."""
        parts = (f"{name}={shown(setting, getattr(self, name))}" for name, setting in SETTINGS.items())
        return f"Settings({', '.join(parts)})"


def _login_of(user: str, password: str | None) -> str:
    """The part of a URL before the host; whatever stands in it is escaped, a blank so that every driver reads it."""
    return ":".join(quote(one, safe="") for one in (user, password) if one) + "@"


def _address(host: str, port: int) -> str:
    return f"[{host.strip('[]')}]:{port}" if ":" in host else f"{host}:{port}"


SETTINGS: dict[str, Setting] = {one.name: one.metadata["setting"] for one in fields(Settings)}
"""Every declaration by field name, in order."""

TYPES: dict[str, Any] = get_type_hints(Settings)
"""The type of each, by field name."""

"""The environment becomes Settings, or one error that names everything wrong with it."""

from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.uri_parser import parse_uri
from sqlalchemy import make_url

from data_manager import settings
from data_manager.domain.dataset import MARKETS
from data_manager.service.access import mongo_access
from data_manager.settings import BadSettings, Settings, describe, load, read, warnings

NAMES = [name.upper() for name in settings.SETTINGS]
SECRETS = [name.upper() for name, setting in settings.SETTINGS.items() if setting.secret]


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load({}) == Settings()
    assert load(dict.fromkeys(NAMES, "")) == Settings()
    assert load(dict.fromkeys(NAMES, "  ")) == Settings()


def test_every_default_is_valid_when_written_out() -> None:
    written = {row.name: row.default for row in describe(Settings(), {}) if not row.default.startswith("(unset")}
    assert load(written) == Settings()
    assert len(written) > 25


def test_values_are_read_by_type() -> None:
    found = load({
        "API_PORT": "1234", "NATS_ACK_WAIT_S": "2.5", "ENABLE_API": "No", "DATA_DIR": "~/market", "LOG_LEVEL": "debug",
        "NATS_URL": "nats://one:4222, tls://two:4222", "RAW_QUERY_TIMEOUT": "not ours",
    })  # fmt: skip
    assert (found.api_port, found.nats_ack_wait_s, found.enable_api, found.log_level) == (1234, 2.5, False, "DEBUG")
    assert found.data_dir == Path.home() / "market"
    assert found.nats_servers == ["nats://one:4222", "tls://two:4222"]


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("YES", True), ("0", False), ("no", False)])
def test_flags_are_written_in_several_ways(text: str, value: bool) -> None:
    assert load({"ENABLE_API": text}).enable_api is value


@pytest.mark.parametrize(
    ("name", "text", "valid"),
    [
        ("API_PORT", "http", "a whole number from 0 to 65535"),
        ("API_PORT", "65536", "a whole number from 0 to 65535"),
        ("API_PORT", "80.5", "a whole number"),
        ("NATS_OWN_PORT", "0", "from 1 to 65535"),
        ("FLUSH_AGE_MS", "-1", "from 0 to 60000 ms"),
        ("NATS_ACK_WAIT_S", "nan", "a number from 1 to 3600 s"),
        ("NATS_ACK_WAIT_S", "inf", "a number from 1 to 3600 s"),
        ("ENABLE_API", "maybe", "one of true 1 yes false 0 no"),
        ("LOG_LEVEL", "loud", "one of DEBUG INFO WARNING ERROR CRITICAL"),
        ("MARKET", "futures", "one of um cm spot"),
        ("NATS_URL", "localhost:4222", "like nats://host:4222"),
        ("NATS_CONSUMER_SUBJECT", "$SYS.>", "a NATS subject"),
        ("NATS_CONSUMER_SUBJECT", "binance..data", "a NATS subject"),
        ("NATS_STREAM", "market.events", "letters, digits, _ or -"),
        ("META_URL", "postgres://host/db", "like sqlite:////folder/file or mysql://"),
        ("API_HOST", "127.0.0.1:8000/x", "an address or host name"),
        ("MYSQL_HOST", "db:3306", "one host name or address such as db1, 10.0.0.5 or ::1, without its port"),
        ("MONGODB_HOST", "one,two", "one host name or address"),
        ("STORE_MEMORY_BYTES", "1", "from 1048576 to"),
        ("NATS_CREDS_FILE", "~0/nats.creds", "a file: there is no user ~0"),
    ],
)
def test_an_unusable_value_is_named_with_what_would_be_valid(name: str, text: str, valid: str) -> None:
    with pytest.raises(BadSettings) as raised:
        load({name: text})
    assert raised.value.name == name
    assert name in str(raised.value)
    assert valid in str(raised.value)


def test_all_problems_are_reported_together() -> None:
    environ = {"API_PORT": "x", "LOG_LEVEL": "y", "FLUSH_AGE_MS": "z"}
    with pytest.raises(BadSettings) as raised:
        load(environ)
    assert {problem.name for problem in raised.value.problems} == set(environ)
    assert len(str(raised.value).splitlines()) == 3


def test_who_reports_gets_the_defaults_beside_the_problems() -> None:
    found, problems = read({"API_PORT": "x", "METRICS_PORT": "1"})
    assert (found.api_port, found.metrics_port) == (8000, 1)
    assert [problem.name for problem in problems] == ["API_PORT"]


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"API_PORT": "9090"}, "METRICS_PORT"),
        (
            {"LEADER_ELECTION_TIMEOUT": "15", "LEADER_ELECTION_HEARTBEAT_INTERVAL": "8"},
            "LEADER_ELECTION_HEARTBEAT_INTERVAL",
        ),
        ({"FLUSH_AGE_MS": "1000", "NATS_ACK_WAIT_S": "1"}, "FLUSH_AGE_MS"),
        ({"NATS_TLS_CERT_FILE": "cert.pem"}, "NATS_TLS_KEY_FILE"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(environ: dict[str, str], name: str) -> None:
    with pytest.raises(BadSettings, match=name):
        load(environ)
    assert load({"API_PORT": "0", "METRICS_PORT": "0"}).api_port == 0


def test_a_short_term_alone_is_enough() -> None:
    assert load({}).heartbeat_s == load({"LEADER_ELECTION_TIMEOUT": "300"}).heartbeat_s == 10
    assert load({"LEADER_ELECTION_TIMEOUT": "3"}).heartbeat_s == 1
    assert load({"LEADER_ELECTION_TIMEOUT": "15", "LEADER_ELECTION_HEARTBEAT_INTERVAL": "2"}).heartbeat_s == 2
    with pytest.raises(BadSettings, match="must be a whole number from 1 to 1200 s"):
        load({"LEADER_ELECTION_HEARTBEAT_INTERVAL": "1.5"})


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=30).map(lambda text: text.replace("\0", ""))))
def test_any_text_gives_settings_or_bad_settings(environ: dict[str, str]) -> None:
    found, problems = read(environ)
    assert isinstance(found, Settings)
    for problem in problems:
        assert problem.name in NAMES


CREDENTIALS = [
    "nats://user:hunter2@host:4222", "nats://hunter2@host", "user:hunter2@host:4222", "nats://u:hun@ter2@host",
    "nats://u:hunter2@one,nats://u:hunter2@two", "nats://u:a,hunter2@host", "mysql://root:hunter2@db/meta",
    "sqlite:////f?password=hunter2", "hunter2", "http://a b:hunter2@x",
]  # fmt: skip


@pytest.mark.parametrize("text", CREDENTIALS)
@pytest.mark.parametrize("name", SECRETS)
def test_a_credential_is_never_shown(name: str, text: str) -> None:
    found, problems = read({name: text})
    shown = [repr(found), *map(str, problems), *map(str, describe(found, {name: text}))]
    assert not [line for line in shown if "hunter2" in line or "ter2" in line]


def test_the_metadata_is_where_the_first_of_its_settings_says() -> None:
    parts = {"MYSQL_HOST": "db", "MYSQL_USER": "petrosa", "MYSQL_PASSWORD": "p@ss/wörd"}
    assert load({"DATA_DIR": "d"}).metadata_url == "sqlite:///d/metadata.sqlite"
    assert load(parts).metadata_url == "mysql://petrosa:p%40ss%2Fw%C3%B6rd@db:3306/petrosa_data_manager"
    assert load({"MYSQL_HOST": "::1", "MYSQL_PORT": "33", "MYSQL_DB": "m"}).metadata_url == "mysql://root@[::1]:33/m"
    uri = {"MYSQL_URI": "mysql+pymysql://u@h/db"}
    assert load({**parts, **uri}).metadata_url == uri["MYSQL_URI"]
    assert load({**parts, **uri, "META_URL": "sqlite:////x"}).metadata_url == "sqlite:////x"


def test_the_rows_are_embedded_unless_a_mongodb_is_named() -> None:
    assert load({"MONGODB_PORT": "1", "MONGODB_DB": "x"}).rows_url is None
    assert load({"MONGODB_HOST": "db"}).rows_url == "mongodb://db:27017/"
    login = {"MONGODB_USER": "petrosa", "MONGODB_PASSWORD": "p:@"}
    assert load({"MONGODB_HOST": "db", **login}).rows_url == "mongodb://petrosa:p%3A%40@db:27017/"
    assert load({"MONGODB_HOST": "db", "MONGODB_URL": "mongodb+srv://x"}).rows_url == "mongodb+srv://x"


@pytest.mark.parametrize("host", ["::1", "[::1]", "fe80::a:b"])
def test_an_ipv6_address_is_taken_with_and_without_brackets(host: str) -> None:
    found = load({"MYSQL_HOST": host, "MONGODB_HOST": host})
    assert make_url(found.metadata_url).host == mongo_access(found).host == host.strip("[]")
    assert parse_uri(str(found.rows_url))["nodelist"] == [(host.strip("[]"), 27017)]
    assert mongo_access(found).where == f"database petrosa_data_manager on [{host.strip('[]')}]:27017"


def test_what_kubernetes_says_of_services_named_as_our_servers_is_none_of_our_ports() -> None:
    injected = {"MYSQL_PORT": "tcp://10.96.0.7:3306", "MONGODB_PORT": "tcp://10.96.0.8:27017"}
    assert (load(injected).mysql_port, load(injected).mongodb_port) == (3306, 27017)
    assert warnings(injected) == []


def test_drivers_read_a_login_as_it_was_given() -> None:
    user, password = "svc.data@corp", "a b+c%d:/?#é"
    login = {
        f"{kind}_{what}": text
        for kind in ("MYSQL", "MONGODB")
        for what, text in (("USER", user), ("PASSWORD", password))
    }
    found = load({**login, "MYSQL_HOST": "db", "MONGODB_HOST": "db"})
    sql, mongo = make_url(found.metadata_url), parse_uri(str(found.rows_url))
    assert (sql.username, sql.password) == (mongo["username"], mongo["password"]) == (user, password)


def test_what_is_not_secret_of_a_url_is_shown() -> None:
    environ = {"NATS_URL": "nats://u:p@one:4222,nats://u:p@two:4222"}
    row = next(row for row in describe(load(environ), environ) if row.name == "NATS_URL")
    assert (row.value, row.source) == ("nats://***@one:4222,nats://***@two:4222", "environment")


def test_each_setting_is_described() -> None:
    environ = {"API_PORT": "1"}
    rows = describe(load(environ), environ)
    assert [row.name for row in rows] == NAMES
    assert all(row.meaning.endswith(".") for row in rows)
    assert [row.name for row in rows if row.source == "environment"] == ["API_PORT"]
    numbers = [name.upper() for name, kind in get_type_hints(Settings).items() if kind in (int, float)]
    assert all(row.unit for row in rows if row.name in numbers)


def test_a_misspelt_variable_is_noticed_and_a_foreign_one_is_not() -> None:
    assert warnings({"DATADIR": "x"}) == ["DATADIR is set, but nothing reads it: did you mean DATA_DIR?"]
    assert warnings({"ANALYTICS_INTERVAL": "9"}) == ["ANALYTICS_INTERVAL is set, but this version does not read it"]
    assert warnings({"PATH": "x", "HOME": "x", "NATS_PORT": "tcp://10.0.0.1:4222", "XDG_DATA_DIRS": "x"}) == []
    assert warnings(dict.fromkeys(NAMES, "x")) == []


def test_a_login_without_a_server_is_noticed() -> None:
    [said] = warnings({"MYSQL_USER": "us", "MYSQL_DB": "ours"})
    assert said == "MYSQL_DB is set, but no server is named: set MYSQL_HOST, which has no default"
    assert "MONGODB_HOST" in warnings({"MONGODB_PASSWORD": "x"})[0]
    assert warnings({"MYSQL_USER": "us", "META_URL": "sqlite:///x"}) == []


def test_rows_that_are_shared_without_their_metadata_are_noticed() -> None:
    rows, file = {"MONGODB_HOST": "db"}, {"META_URL": "sqlite:////data/meta.db"}
    for apart in (rows, {**rows, **file}, {**rows, **file, "MYSQL_HOST": "db"}):
        [said] = warnings(apart)
        assert "set MYSQL_URI too" in said
    for together in ({**rows, "MYSQL_HOST": "db"}, {**rows, "META_URL": "mysql://u:p@db/x"}, file):
        assert warnings(together) == []


def test_the_markets_are_those_of_the_domain() -> None:
    assert get_args(get_type_hints(Settings)["market"]) == MARKETS


@pytest.mark.parametrize(
    "address",
    [
        "https://hooks.example.com/services/T0/B0/hush",
        "https://hooks.example.com?token=hush",
        "htps://hooks.example.com/hush",
        "https://me:hush@hooks.example.com/x",
        "hush",
    ],
)
def test_the_address_of_a_webhook_is_a_secret_but_for_its_host(address: str) -> None:
    found, problems = read({"ALERT_WEBHOOK_URL": address})
    shown = [row.value for row in describe(found, {"ALERT_WEBHOOK_URL": address}) if row.name == "ALERT_WEBHOOK_URL"]
    assert "hush" not in f"{found!r}{problems}{shown}"
    assert (found.alert_webhook_url == address) == (not problems)

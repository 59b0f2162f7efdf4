"""Getting in at a real nats-server: tokens, certificates of our own authority, and what is said where one is kept out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from data_manager.adapters.bus.connection import NatsAccess
from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.bus.opening import open_bus
from data_manager.domain.errors import BadSetting
from data_manager.ports import Bus
from tests.certificates import Authority
from tests.conftest import eventually
from tests.servers import WallClock, free_port

SECRET = "hunter2"
Files = tuple[Path, Path]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom everybody here trusts, but for those who do not."""
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def certificate(ours: Authority) -> Files:
    """Of the servers."""
    return ours.issue("server")


@asynccontextmanager
async def server(folder: Path, config: str) -> AsyncIterator[NatsServer]:
    """One that may not let us in; it is asked for nothing before it is there."""
    one = NatsServer(folder, port=free_port(), jetstream=False, config=config)
    await one.start()
    try:
        yield one
    finally:
        await one.kill()


@asynccontextmanager
async def bus_to(one: NatsServer, *, scheme: str = "nats", **access: Any) -> AsyncIterator[Bus]:
    """A bus on its way in."""
    url = f"{scheme}://{access.pop('login', '')}127.0.0.1:{one.port}"
    given = NatsAccess(urls=(url,), connect_timeout_s=2.0, reconnect_wait_s=0.1, **access)
    bus = open_bus(given, "market.data", mode="core", clock=WallClock())
    assert SECRET not in repr(given) + given.shown
    try:
        yield bus
    finally:
        await bus.close()


async def let_in(one: NatsServer, **access: Any) -> None:
    async with bus_to(one, **access) as bus:

        async def is_in() -> bool:
            return (await bus.state()).connected

        await eventually(is_in, what=f"let in\n{one.log_file.read_text()}")


async def kept_out(one: NatsServer, *words: str, **access: Any) -> None:
    """Readiness gives a reason with these words in it; no secret is in any."""
    said: set[str] = set()
    async with bus_to(one, **access) as bus:

        async def is_said() -> bool:
            state = await bus.state()
            said.add(state.reason or "")
            assert not state.connected
            return any(all(word in reason for word in words) for reason in said)

        try:
            await eventually(is_said)
        except AssertionError:
            raise AssertionError(f"{words} is in none of {said}\n{one.log_file.read_text()}") from None
    assert not any(SECRET in reason for reason in said)


async def test_a_token(tmp_path: Path) -> None:
    async with server(tmp_path, f'authorization {{ token: "{SECRET}" }}') as one:
        await let_in(one, token=SECRET)
        await let_in(one, login=f"{SECRET}@")
        await kept_out(one, "refuses our login", "NATS_TOKEN", token="wrong")
        await kept_out(one, "refuses our login", "NATS_TOKEN")


async def test_a_wrong_password(tmp_path: Path) -> None:
    async with server(tmp_path, 'authorization { user: "us", password: "right" }') as one:
        await let_in(one, user="us", password="right")
        await kept_out(one, "refuses our login", "NATS_PASSWORD", user="us", password=SECRET)
        await kept_out(one, "refuses our login", "NATS_PASSWORD", login=f"us:{SECRET}@")


async def test_encryption(tmp_path: Path, ours: Authority, certificate: Files) -> None:
    other = Authority(tmp_path, "other")
    async with server(tmp_path / "nats", tls(*certificate)) as one:
        await let_in(one, tls_ca_file=ours.certificate)
        await let_in(one, tls_ca_file=ours.certificate, scheme="tls")
        await kept_out(one, "not trusted", "NATS_TLS_CA_FILE", tls_ca_file=other.certificate)
        await kept_out(one, "not trusted", "NATS_TLS_CA_FILE")


async def test_no_login_is_sent_in_plain_text_where_encryption_was_asked_for(tmp_path: Path, ours: Authority) -> None:
    async with server(tmp_path / "plain", f'authorization {{ token: "{SECRET}" }}') as one:
        for asked in ({"tls_ca_file": ours.certificate}, {"scheme": "tls"}):
            await kept_out(one, "does not encrypt", token=SECRET, **asked)
        await let_in(one, token=SECRET)


async def test_a_certificate_of_ours(tmp_path: Path, ours: Authority, certificate: Files) -> None:
    """A server that wants to know who comes."""
    mine, key = ours.issue("client")
    stranger, its_key = Authority(tmp_path, "other").issue("client")
    config = tls(*certificate, ca_file=ours.certificate, verify="true")
    async with server(tmp_path / "nats", config) as one:
        await let_in(one, tls_ca_file=ours.certificate, tls_cert_file=mine, tls_key_file=key)
        for refused in ({}, {"tls_cert_file": stranger, "tls_key_file": its_key}):
            await kept_out(one, "NATS_TLS_CERT_FILE", tls_ca_file=ours.certificate, **refused)


async def test_files_that_are_none(tmp_path: Path, certificate: Files) -> None:
    async with server(tmp_path / "nats", tls(*certificate)) as one:
        (tmp_path / "empty.pem").touch()
        wrong: list[dict[str, Path]] = [
            {"tls_ca_file": tmp_path / "nowhere.pem"}, {"tls_ca_file": tmp_path / "empty.pem"},
            {"tls_cert_file": certificate[0], "tls_key_file": tmp_path / "empty.pem"},
            {"creds_file": tmp_path / "nowhere.creds"}, {"creds_file": tmp_path / "empty.pem"},
        ]  # fmt: skip
        for given in wrong:
            with pytest.raises(BadSetting, match="NATS_CREDS_FILE" if "creds_file" in given else "NATS_TLS"):
                async with bus_to(one, **given) as bus:
                    async for _ in bus.batches(0.05):
                        pass


def tls(certificate: Path, key: Path, **more: object) -> str:
    """A server's configuration."""
    options = {"cert_file": certificate, "key_file": key, "timeout": 5, **more}
    return f"tls {{ {', '.join(f'{name}: {_quoted(value)}' for name, value in options.items())} }}"


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, Path) else str(value)

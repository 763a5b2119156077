import errno
import os
import stat
from pathlib import Path

import pytest

from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder
from agentkd.cli.app import app
from agentkd.cli.ending import run_to_the_end
from agentkd.coordinator.desk import desk_with_agents
from agentkd.coordinator.watching import Silent
from agentkd.errors import LaunchError
from agentkd.exchange import socket_files
from agentkd.exchange.doors import is_listened_at
from agentkd.exchange.keys import new_key_pair
from agentkd.exchange.socket_files import SocketFiles, places, take
from agentkd.exchange.zeromq import ZeroMQChannel
from agentkd.launch.settings import LaunchConfig

NOBODY_HERE = 2**22 + 1  # no process of this system has this id, as one of another container has none here


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Short and private, as it should be; the folder for temporary files is too long."""
    place = Path("/tmp") / f"akd-{os.getpid()}-{tmp_path.name[-12:]}"
    place.mkdir(mode=0o700)
    long = tmp_path / ("t" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    monkeypatch.setattr(socket_files.tempfile, "tempdir", str(long))
    yield place
    for file in sorted(place.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    place.rmdir()


def listening(*bind: str) -> ZeroMQChannel:
    return ZeroMQChannel(new_key_pair(), lambda key: False, bind)


def files(runtime: Path) -> list[str]:
    return sorted(file.name for file in runtime.glob("*/*"))


def test_a_second_one_that_cannot_see_the_first_ones_process_leaves_its_sockets_alone(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: NOBODY_HERE)
    first = listening("ipc://*")
    try:
        before = files(runtime)
        monkeypatch.undo()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        second = listening("ipc://*")
        assert set(before) < set(files(runtime))
        second.close()
        assert files(runtime) == before
    finally:
        first.close()
    assert not files(runtime)


def test_what_an_owner_that_was_killed_left_is_removed_by_the_next_one(runtime: Path) -> None:
    killed = take([])
    assert killed is not None
    for file in (killed.new(), killed.new()):
        file.touch()
    Path(f"{killed.new()}.closed").touch()
    assert len(files(runtime)) == 4
    os.close(killed._descriptor)  # which the system does, however a process ends
    following = take([])
    assert following is not None
    assert len(files(runtime)) == 1
    following.remove()
    following.remove()
    assert not files(runtime)


def test_what_one_left_that_was_killed_meanwhile_is_removed_by_who_closes(runtime: Path) -> None:
    closing, killed, living = take([]), take([]), take([])
    assert closing is not None and killed is not None and living is not None
    for owner in (killed, living):
        owner.new().touch()
    os.close(killed._descriptor)
    closing.remove()
    assert len(files(runtime)) == 2
    closing.remove()
    living.remove()
    assert not files(runtime)


def test_without_locks_nothing_of_another_is_removed(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(socket_files.fcntl, "flock", refuse)
    first = take([])
    assert first is not None
    first.new().touch()
    assert take([]) is not None
    assert len(files(runtime)) == 1


@pytest.mark.parametrize("runtime_dir", ["", "relative", "/nowhere/at/all", "/etc/passwd"])
def test_a_runtime_folder_that_will_not_do_is_passed_over(
    runtime_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_dir)
    monkeypatch.setattr(socket_files.tempfile, "tempdir", str(runtime))
    channel = listening("ipc://*")
    assert channel.endpoints[0].startswith(f"ipc://{runtime}/")
    channel.close()
    named = [place for place in places() if place.reason]
    assert len(named) == bool(runtime_dir)


def test_a_folder_of_another_user_or_that_others_may_change_is_no_place_for_sockets(runtime: Path) -> None:
    runtime.chmod(0o777)
    assert [bool(place.reason) for place in places()] == [True, True]
    runtime.chmod(0o1777)
    assert not next(iter(places())).reason
    ours = next(runtime.iterdir())
    ours.chmod(0o755)
    assert "chmod 700" in next(iter(places())).reason
    ours.chmod(0o700)
    found = os.stat_result((stat.S_IFDIR | 0o700, 0, 0, 1, os.getuid() + 1, 0, 0, 0, 0, 0))
    assert "another user" in socket_files._strange(found, "it")


def test_where_no_socket_file_can_be_had_tcp_does(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    channel = listening("ipc://*", "tcp://127.0.0.1:*")
    try:
        assert [one.partition(":")[0] for one in (*channel.endpoints, *channel.bulk_endpoints)] == ["tcp", "tcp"]
    finally:
        channel.close()


def test_who_wants_socket_files_alone_is_told_which_folders_will_not_do(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    with pytest.raises(LaunchError) as caught:
        listening("ipc://*")
    for part in ("/nowhere", "too long", "XDG_RUNTIME_DIR or TMPDIR", "launch.transport: tcp"):
        assert part in str(caught.value)


def test_a_path_to_listen_at_that_is_too_long_is_not_called_a_port_in_use(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="shorter path"):
        listening(f"ipc://{tmp_path}/{'s' * 110}.sock")


def test_a_socket_that_cannot_be_looked_at_is_not_listened_at() -> None:
    assert not is_listened_at(Path("/" + "s" * 5_000))


def test_the_longest_path_that_is_taken_can_be_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = socket_files.MAX_PATH_BYTES - 1 - socket_files.LONGEST_NAME - len(f"/agentkd-{os.getuid()}")
    bound = []
    for length in (room, room + 1):
        place = Path("/tmp") / ("p" * (length - len("/tmp/")))
        place.mkdir(mode=0o700, exist_ok=True)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
        try:
            found = next(iter(places()))
            bound.append(not found.reason)
            if not found.reason:
                mine = SocketFiles(found.folder)
                channel = listening(f"ipc://{mine.new()}")
                channel.close()
                mine.remove()
                found.folder.rmdir()
        finally:
            place.rmdir()
    assert bound == [True, False]


def test_a_run_that_uses_none_and_gc_sweep_the_sockets_of_the_dead_too(runtime: Path, tmp_path: Path) -> None:
    folder = next(iter(places())).folder
    for name in ("1-ab.lock", "1-ab-0.sock"):
        (folder / name).touch()
    alive = SocketFiles(folder)
    socket_files.sweep()
    left = {path.name for path in folder.iterdir()}
    alive.remove()
    assert len(left) == 1 and "1-ab.lock" not in left, "the lock of the one that lives"
    run = RunFolder(tmp_path / "run")
    for begin in (lambda: desk_with_agents(run, (), LaunchConfig(transport="tcp"), Silent(), is_forgiving=True), lambda: gc(run)):
        (folder / "1-ab.lock").touch()
        begin()
        assert not list(folder.iterdir())


def gc(run: RunFolder) -> None:
    Journal(run.journal).__exit__(None, None, None)
    assert run_to_the_end(app, ["gc", str(run.place), "--apply"]) == 0


def test_a_folder_in_which_no_file_can_be_made_after_all_is_named_with_the_reason(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(socket_files, "_sweep", refuse)
    found: list[socket_files.Place] = []
    assert take(found) is None
    folder = runtime / f"agentkd-{os.getuid()}"
    assert str(found[0]) == f"{folder}: no file can be made there ({os.strerror(errno.EDQUOT)})"
    assert len(found) == 2 and "is too long" in found[1].reason

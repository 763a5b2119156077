"""Keys: made, registered, listed and revoked; a revoked key's live session ends at its next message; grants by kind."""

import json
from pathlib import Path
from typing import Any

import pytest
from sides import RawPeer, Side, wait_until
from typer.testing import CliRunner

from agentkd.cli import app
from agentkd.errors import ConfigError, LaunchError, RemoteProtocolError, Rule, StorageError
from agentkd.exchange import audit, zeromq
from agentkd.exchange.audit import Audit
from agentkd.exchange.grants import Entry, Grants, Registry
from agentkd.exchange.keys import load_key_pair, new_key_pair, save_key_pair
from agentkd.exchange.zeromq import ZeroMQChannel
from agentkd.messages.bodies import AdmittedPeer, PingReply, PingRequest


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_commands_make_register_list_and_revoke_a_key(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    public = run("keys", "new", "ann", "--keys", folder).rpartition("public key: ")[2].strip()
    assert load_key_pair(folder / "ann.json").public == public
    assert (folder / "ann.json").stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(StorageError):
        save_key_pair(folder / "ann.json", new_key_pair())
    assert "soft_targets" in run("keys", "register", "ann", public, "--may", "soft_targets", "--keys", folder)
    assert (folder / "registry.json").stat().st_mode & 0o777 == 0o600
    run("keys", "revoke", "ann", "--keys", folder)
    listed = json.loads(run("keys", "list", "--keys", folder, "--format", "json"))
    assert listed == [{"name": "ann", "public_key": public, "may": ["soft_targets"], "is_revoked": True}]


@pytest.mark.parametrize("key", ["-$" + "k" * 38, "--" + "=k" * 19, "-h" + "." * 38])
def test_a_key_that_begins_like_an_option_is_a_key(tmp_path: Path, key: str) -> None:
    run("keys", "register", "ann", key, "--may", "weights", "--keys", tmp_path)
    assert Registry(tmp_path).entries()[key].may == ("weights",)
    with pytest.raises(ConfigError, match="nobody registered"):
        run("keys", "revoke", "--keys", tmp_path, key)
    assert "No such option" in CliRunner().invoke(app, ["keys", "register", "ann", "k" * 40, "--mai", "weights"]).output


@pytest.mark.parametrize(
    ("name", "key", "may", "message"),
    [
        ("bob", "short", ["weights"], "public key of 40 characters"),
        ("bob", "k" * 40, ["everything"], "no kind of knowledge"),
        ("ann", "k" * 40, ["weights"], "registered already"),
        ("a\nb", "k" * 40, ["weights"], "public key of 40 characters"),
    ],
)
def test_what_cannot_be_registered_is_said(tmp_path: Path, name: str, key: str, may: list[str], message: str) -> None:
    registry = Registry(tmp_path)
    registry.register("ann", new_key_pair().public)
    with pytest.raises(ConfigError, match=message):
        registry.register(name, key, may)
    with pytest.raises(ConfigError, match="nobody registered"):
        registry.revoke("carl")
    assert len(registry.entries()) == 1


def test_a_damaged_registry_admits_nobody_and_says_so(tmp_path: Path) -> None:
    registry, key = Registry(tmp_path), new_key_pair().public
    registry.register("ann", key)
    registry.path.write_text("{")
    with pytest.raises(ConfigError, match="is not a key registry"):
        registry.entries()
    grants = Grants(registry)
    assert not grants.is_admitted(key)
    registry.path.unlink()
    registry.register("ann", key)
    assert grants.is_admitted(key)


def test_a_key_may_fetch_the_kinds_that_it_was_granted_and_no_others(tmp_path: Path) -> None:
    registry, key = Registry(tmp_path), new_key_pair().public
    registry.register("ann", key, ["soft_targets"])
    grants = Grants(registry)
    grants.check(key, "soft_targets")
    for stranger, kind in ((key, "weights"), (new_key_pair().public, "soft_targets")):
        with pytest.raises(RemoteProtocolError) as caught:
            grants.check(stranger, kind)
        assert caught.value.rule == Rule.GRANT


def test_a_live_session_ends_at_the_first_message_after_its_key_was_revoked(tmp_path: Path) -> None:
    registry, keys = Registry(tmp_path), new_key_pair()
    registry.register("ann", keys.public)
    host = Side(grants=Grants(registry))
    try:
        with RawPeer(host.post.endpoint, host.key, keys) as raw:
            raw.greet()
            assert raw.ask(PingRequest(text="x")).body == PingReply(text="x")
            registry.revoke("ann")
            raw.say(PingRequest(text="y"))
            wait_until(lambda: host.refused(Rule.IDENTITY) == 1)
            with pytest.raises(TimeoutError):
                raw.hear(0.3)
    finally:
        host.post.close()


def test_what_cannot_be_noted_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Audit(tmp_path / "file" / "log").note(None, kind="weights", digest="", size_bytes=0, way="", outcome="served")


class Clock:
    """Seconds that go on when they are told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_refused_fills_no_audit_log_and_what_is_served_is_a_line_each(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "audit.jsonl"
    kept = Audit(path, clock)
    ann, bob = (Entry(name, new_key_pair().public, ()) for name in ("ann", "bob"))
    for number in range(20_000):
        kept.refused(ann, "weights" if number % 2 else "soft_targets", f"{number:064x}")
    kept.refused(bob, "weights", "f" * 64)
    kept.refused(None, "weights", "f" * 64)
    assert len(_lines(path)) == audit.MAX_ALONE + 2 and path.stat().st_size < 5_000
    for _ in range(30):
        kept.note(ann, kind="weights", digest="a" * 64, size_bytes=8, way="stream", outcome="served")
    lines = _lines(path)
    assert [line["outcome"] for line in lines].count("served") == 30 and "count" not in lines[-1]
    clock.now += audit.INTERVAL_S - 1
    kept.sum_up()
    assert len(_lines(path)) == len(lines)
    clock.now += 1
    kept.sum_up()
    (told,) = _lines(path)[len(lines) :]
    assert told["count"] == 20_000 - audit.MAX_ALONE and told["kind"] == "soft_targets, weights"
    assert (told["name"], told["public_key"], told["outcome"]) == ("ann", ann.public_key, "refused")
    assert told["since"] <= told["at"]
    kept.refused(ann, "weights", "e" * 64)
    assert _lines(path)[-1]["digest"] == "e" * 64, "in a new interval the first are a line each again"


def test_refusals_that_go_on_for_an_hour_take_a_bounded_number_of_lines(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "audit.jsonl"
    kept = Audit(path, clock)
    entry = Entry("ann", new_key_pair().public, ())
    for _ in range(36_000):
        clock.now += 0.1
        kept.refused(entry, "weights", "a" * 64)
    kept.close()
    lines = _lines(path)
    assert len(lines) <= 61 * (audit.MAX_ALONE + 1)
    assert sum(line.get("count", 1) for line in lines) == 36_000, "none is lost"
    assert not kept._refusals


def test_refusals_that_cannot_be_summed_up_yet_are_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock, path = Clock(), tmp_path / "logs" / "audit.jsonl"
    kept = Audit(path, clock)
    entry = Entry("ann", new_key_pair().public, ())
    for _ in range(audit.MAX_ALONE + 5):
        kept.refused(entry, "weights", "a" * 64)
    path.unlink()
    path.mkdir()
    clock.now += audit.INTERVAL_S
    for _ in range(3):  # once in an interval, not at every look
        kept.sum_up()
    assert len(caplog.messages) == 1 and "5 refusals are not in the audit log yet" in caplog.messages[0]
    path.rmdir()
    clock.now += audit.INTERVAL_S
    kept.sum_up()
    assert [line["count"] for line in _lines(path)] == [5]


def test_a_revoked_key_may_nothing_even_where_its_coordinator_admits_it(tmp_path: Path) -> None:
    registry, key = Registry(tmp_path), new_key_pair().public
    registry.register("ann", key, ["weights"])
    grants = Grants(registry)
    grants.admit([AdmittedPeer(agent="ann", public_key=key, may=("weights",))])
    grants.check(key, "weights")
    registry.revoke("ann")
    assert grants.find(key) is None and not grants.is_admitted(key)
    with pytest.raises(RemoteProtocolError, match="it may fetch: nothing"):
        grants.check(key, "weights")
    grants.admit([AdmittedPeer(agent="ann", public_key=key, may=("weights",))])
    assert not grants.is_admitted(key), "nor if it is admitted anew"


def test_a_revoked_name_and_a_revoked_key_can_be_registered_anew(tmp_path: Path) -> None:
    registry, old, new = Registry(tmp_path), new_key_pair().public, new_key_pair().public
    registry.register("ann", old)
    registry.revoke("ann")
    registry.register("ann", new, ["weights"])
    grants = Grants(registry)
    assert grants.is_admitted(new) and not grants.is_admitted(old)
    registry.register("bob", old, ["soft_targets"])
    found = grants.find(old)
    assert found is not None and (found.name, found.may) == ("bob", ("soft_targets",))
    assert registry.entries()[new].name == "ann" and len(registry.entries()) == 2
    for name, key in (("carl", new), ("bob", new_key_pair().public)):
        with pytest.raises(ConfigError, match="registered already"):
            registry.register(name, key)


def test_a_listener_that_would_let_anybody_in_does_not_start() -> None:
    with pytest.raises(LaunchError, match="nobody knows was let in"):
        ZeroMQChannel(new_key_pair(), lambda key: True, ("tcp://127.0.0.1:*",))


def test_a_listener_whose_authentication_nobody_answers_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeromq, "SELF_TEST_MS", 300)
    monkeypatch.setattr(zeromq.ThreadAuthenticator, "configure_curve_callback", lambda self, *rest: self.stop())
    with pytest.raises(LaunchError, match="nobody answers"):
        ZeroMQChannel(new_key_pair(), lambda key: False, ("ipc://*",))

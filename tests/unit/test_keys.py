"""Keys: made, registered, listed and revoked; a revoked key's live session ends at its next message; grants by kind."""

import json
from pathlib import Path

import pytest
from sides import RawPeer, Side, wait_until
from typer.testing import CliRunner

from agentkd.cli import app
from agentkd.errors import ConfigError, LaunchError, RemoteProtocolError, Rule, StorageError
from agentkd.exchange import zeromq
from agentkd.exchange.grants import Audit, Grants, Registry
from agentkd.exchange.keys import load_key_pair, new_key_pair, save_key_pair
from agentkd.exchange.zeromq import ZeroMQChannel
from agentkd.messages.bodies import PingReply, PingRequest


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


def test_a_listener_that_would_let_anybody_in_does_not_start() -> None:
    with pytest.raises(LaunchError, match="nobody knows was let in"):
        ZeroMQChannel(new_key_pair(), lambda key: True, ("tcp://127.0.0.1:*",))


def test_a_listener_whose_authentication_nobody_answers_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeromq, "SELF_TEST_MS", 300)
    monkeypatch.setattr(zeromq.ThreadAuthenticator, "configure_curve_callback", lambda self, *rest: self.stop())
    with pytest.raises(LaunchError, match="nobody answers"):
        ZeroMQChannel(new_key_pair(), lambda key: False, ("ipc://*",))

"""Devices, liveness, keys, seeds and the table's forms."""

import stat
from pathlib import Path

import pytest

from agentkd import seeding
from agentkd.agents import agent
from agentkd.errors import ConfigError, StorageError
from agentkd.exchange.grants import Grants
from agentkd.exchange.keys import load_key_pair, new_key_pair, save_key_pair
from agentkd.exchange.liveness import Liveness, beat, heard, verdict
from agentkd.launch.devices import Slot, parse_devices


def test_devices_are_placed_as_asked() -> None:
    assert parse_devices("cpu:2", cores=2, cuda_count=0) == (Slot("cpu", 1), Slot("cpu", 1))
    assert parse_devices("auto", cores=2, cuda_count=0) == (Slot("cpu", 1), Slot("cpu", 1))
    assert parse_devices("auto", cores=16, cuda_count=2) == (Slot("cuda:0", 4), Slot("cuda:1", 4))
    assert parse_devices("cuda:0,cuda:0,cuda:0", cores=16, cuda_count=1) == (Slot("cuda:0", 5),) * 3, "no more threads than cores"
    crowded = parse_devices("cuda:0,cuda:1,cuda:1,cuda:1,cuda:1", cores=8, cuda_count=2)
    assert crowded == (Slot("cuda:0", 2), *[Slot("cuda:1", 1)] * 4)
    assert parse_devices("cuda:0, cuda:1x4", cores=8, cuda_count=2) == crowded, "the same, said shorter"
    assert parse_devices("cuda:1x2,cuda:1", cores=12, cuda_count=2) == (Slot("cuda:1", 2),) * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cuda:0", "there is no CUDA device on this machine"),
        ("gpu", "'gpu' is not a device; expected auto, cpu:2, cuda:0,cuda:1, or cuda:0x2 for two agents on one GPU"),
        ("cpu:0", "cpu:1 is one"),
        ("cpu:2x3", "the number after cpu says how many agents; cpu:6 has as many"),
        ("cpux2", "cpu:2 has as many"),
        ("cudax2", "2 agents on which one\\? cuda:0x2 has them on the first"),
        ("autox2", "auto takes each device once; name them: cuda:0x2,cuda:1x2"),
        ("cuda:0*2", "'cuda:0\\*2' is not a device; expected .* or cuda:0x2"),
        ("cuda:0x-1", "is not a device"),
        ("cpu:1024,cpu", "1,024 and 1 agents are more than the 1,024 that one machine may have"),
        ("", "is not a device"),
    ],
)
def test_a_device_that_is_not_there_is_refused(text, expected) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse_devices(text, cores=2, cuda_count=0)


def test_a_third_gpu_of_two_is_refused_with_what_is_there() -> None:
    with pytest.raises(ConfigError, match=r"cuda:2 is not there; there are 2 \(cuda:0 to cuda:1\)"):
        parse_devices("cuda:2", cores=8, cuda_count=2)
    with pytest.raises(ConfigError, match=r"devices 'cuda:1,cuda:2x2': cuda:2x2 is not there; there are 2"):
        parse_devices("cuda:1,cuda:2x2", cores=8, cuda_count=2)
    with pytest.raises(ConfigError, match=r"cuda:0x0 is no slot at all; leave it out, or write cuda:0"):
        parse_devices("cuda:0x0", cores=8, cuda_count=1)
    with pytest.raises(ConfigError, match=r"2,000 agents are more than the 1,024"):
        parse_devices("cuda:0x2000", cores=8, cuda_count=1)


def test_silence_and_hanging_are_told_apart() -> None:
    state = Liveness(heard_at=0, moved_at=0)
    limits = {"lease_s": 5, "hang_s": 20}
    assert verdict(heard(state, 4), 8, **limits) == ""
    assert verdict(heard(state, 4), 9.5, **limits).startswith("silent")
    for now in range(1, 30):
        state = beat(state, now, progress=1, is_busy=True)
    assert "no progress for 28.0 s" in verdict(state, 29, **limits)
    assert verdict(beat(state, 30, progress=2, is_busy=True), 31, **limits) == ""
    assert verdict(beat(state, 30, progress=1, is_busy=False), 31, **limits) == ""


def test_key_files_are_private_and_never_overwritten(tmp_path) -> None:
    path, pair = tmp_path / "keys" / "a.json", new_key_pair()
    save_key_pair(path, pair)
    assert load_key_pair(path) == pair
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert pair.secret not in repr(pair)
    with pytest.raises(StorageError):
        save_key_pair(path, new_key_pair())
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key_pair(path)


def test_seeds_and_generators_depend_on_their_keys_alone() -> None:
    assert seeding.derive(1, "a") != seeding.derive(1, "b") != seeding.derive("1", "b")
    assert seeding.generator("x", 1).random(3).tolist() == seeding.generator("x", 1).random(3).tolist()
    assert 0 <= seeding.derive("z") < 2**63


def test_an_agent_knows_its_coordinator_before_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is refused once may not knock again."""
    coordinator = new_key_pair()

    def listen(*arguments: object, grants: Grants, **options: object) -> None:
        assert grants.is_admitted(coordinator.public)
        raise InterruptedError

    monkeypatch.setattr(agent, "Post", listen)
    settings = agent.AgentSettings((), coordinator.public, new_key_pair(), device="cpu", threads=1, run_folder=tmp_path)
    with pytest.raises(InterruptedError):
        agent.Agent(settings)

"""An agent in JavaScript, written from the specification alone, keeps every clause and teaches a Python peer."""

import contextlib
import json
import shlex
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from experiments import SPEC, command, environment
from live_agent import free_port

import agentkd
from agentkd.conformance.probe import Probe
from agentkd.errors import RemoteAgentError, Rule
from agentkd.exchange.keys import load_key_pair, new_key_pair, save_key_pair
from agentkd.knowledge import tensors
from agentkd.messages.bodies import (
    AssessReply,
    AssessRequest,
    ErrorReply,
    KnowledgeReply,
    KnowledgeRequest,
    LeaveRequest,
    LeftEvent,
    PingReply,
    PingRequest,
)

FOLDER = Path(__file__).parents[2] / "examples" / "other_language"
VIEWS = agentkd.ViewSettings(crop_height=32, crop_width=32, scale_min=1.0, scale_max=1.0)
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed"),
    pytest.mark.skipif(not (FOLDER / "node_modules").is_dir(), reason="run: npm install in examples/other_language"),
]


def test_it_joins_a_community_is_assessed_and_gives_soft_targets(tmp_path: Path) -> None:
    save_key_pair(tmp_path / "agent.json", new_key_pair())
    key = load_key_pair(tmp_path / "agent.json").public
    with contextlib.ExitStack() as ended, agentkd.Community(devices="cpu:1", record=tmp_path / "run") as community:
        guest = community.guest("javascript", key)
        assert not guest.is_here
        start = ["node", str(FOLDER / "agent.mjs"), "--key", str(tmp_path / "agent.json"), *shlex.split(community.invitation)]
        process = subprocess.Popen(start, stdout=subprocess.PIPE, text=True)
        ended.callback(process.kill)
        assert process.stdout is not None
        assert guest.weights == json.loads(process.stdout.readline())["weights"]
        images = torch.full((2, 3, 32, 32), 0.9)
        images[..., :16] = 0.1
        assert guest.assess(images, num_classes=5).predicted == (0.5, 0, 0, 0, 0.5)
        assert guest.soft_targets(images, num_classes=5).argmax(dim=1)[1].tolist() == [[0, 0, 4, 4]] * 4
        with pytest.raises(RemoteAgentError, match="num_classes"):
            guest.assess(images, num_classes=4)
        assert guest.obtain_weights() == guest.weights and community.artifact(guest.weights), "its file is in the record now"
        for obtain in (guest.obtain_architecture, guest.obtain_data, lambda: guest.feature_maps(images, ["x"], num_classes=5)):
            with pytest.raises(RemoteAgentError):
                obtain()
        assert guest.soft_targets(images, num_classes=5).shape[1] == 5, "what it does not know it refuses, and all else goes on"
    assert process.wait(timeout=10) == 0, "it was asked to leave with the community"


def test_a_student_of_ours_learns_from_it(tmp_path: Path) -> None:
    save_key_pair(tmp_path / "agent.json", new_key_pair())
    with contextlib.ExitStack() as ended, agentkd.Community(devices="cpu:1", record=tmp_path / "run") as community:
        guest = community.guest("javascript", load_key_pair(tmp_path / "agent.json").public)
        start = ["node", str(FOLDER / "agent.mjs"), "--key", str(tmp_path / "agent.json"), *shlex.split(community.invitation)]
        ended.callback(subprocess.Popen(start, stdout=subprocess.DEVNULL).kill)
        student = community.agent("student", "unet", num_classes=5, base=8, depth=2)
        result = student.distill(guest, SPEC, alpha=0, start="scratch", epochs=1, views=VIEWS)
        exchange = result.result(timeout=120).exchange
        assert exchange is not None and exchange.requests >= 4 and exchange.teacher_s > 0


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    """Where a coordinator will wait; the agent dials there until it is told to leave."""
    for name in ("agent", "coordinator"):
        save_key_pair(tmp_path / f"{name}.json", new_key_pair())
    address = f"tcp://127.0.0.1:{free_port()}"
    arguments = ["--join", address, "--key", str(tmp_path / "agent.json")]
    arguments += [f"--coordinator-key={load_key_pair(tmp_path / 'coordinator.json').public}"]
    with subprocess.Popen(["node", str(FOLDER / "agent.mjs"), *arguments], stdout=subprocess.DEVNULL) as agent:
        yield address
        agent.kill()


def test_the_agent_in_javascript_keeps_every_clause(endpoint: str, tmp_path: Path) -> None:
    arguments = command("protocol", "check", endpoint, "--listen", "--leave", "--format", "json")
    arguments += ["--key", str(tmp_path / "coordinator.json"), "--agent-key", load_key_pair(tmp_path / "agent.json").public]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=150, env=environment(), check=False)
    rows = json.loads(done.stdout)
    assert [row for row in rows if not row["is_kept"]] == [] and done.returncode == 0
    assert next(row for row in rows if row["clause"] == "knowledge.soft_targets")["remark"] == "logits [2, 5, 8, 8]"


def test_it_greets_again_when_its_coordinator_does_not_know_it_any_more(endpoint: str, tmp_path: Path) -> None:
    coordinator, key = load_key_pair(tmp_path / "coordinator.json"), load_key_pair(tmp_path / "agent.json").public
    with Probe(endpoint, coordinator, key, is_listening=True) as probe:
        probe.greet(timeout_s=30)
        probe.want(PingReply, PingRequest())
        probe.say(ErrorReply(code="protocol", rule=Rule.GREETING, remote_type="RemoteProtocolError", text="who is there?"))
        probe.greet(timeout_s=30)
        probe.want(PingReply, PingRequest())
        assert isinstance(probe.ask(LeaveRequest()).body, LeftEvent)


@pytest.mark.parametrize("codec", ["float32", "float16"])
def test_its_soft_targets_are_tensors_that_say_what_its_rule_says(endpoint: str, tmp_path: Path, codec: str) -> None:
    coordinator, key = load_key_pair(tmp_path / "coordinator.json"), load_key_pair(tmp_path / "agent.json").public
    images = torch.full((1, 3, 32, 32), 0.9)
    images[..., :16] = 0.1
    with Probe(endpoint, coordinator, key, is_listening=True) as probe:
        probe.greet(timeout_s=30)
        buffer = tensors.encode({"images": images})
        known = probe.want(AssessReply, AssessRequest(num_classes=5), buffers=(buffer,))
        assert known.predicted == (0.5, 0, 0, 0, 0.5)
        request = KnowledgeRequest(kind="soft_targets", weights=known.weights, num_classes=5, codec=codec)
        answer = probe.ask(request, buffers=(buffer,))
        assert isinstance(answer.body, KnowledgeReply)
        logits = tensors.decode(bytes(answer.buffers[0]))["logits"]
        assert str(logits.dtype) == f"torch.{codec}" and logits.argmax(dim=1)[0].tolist() == [[0, 0, 4, 4]] * 4
        expected = torch.tensor([-8 * (0.1 - (k + 0.5) / 5) ** 2 for k in range(5)])
        assert torch.allclose(logits[0, :, 0, 0].float(), expected, atol=2e-3)
        weights = probe.ask(KnowledgeRequest(kind="weights", weights=known.weights))
        assert struct.unpack("<5f", bytes(weights.buffers[0])[-20:]) == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
        assert isinstance(probe.ask(LeaveRequest()).body, LeftEvent)

"""An agent in plain Python, written from the specification alone, joins, is assessed, teaches and learns."""

import contextlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments import command, environment
from live_agent import free_port
from PIL import Image

import agentkd
from agentkd.coordinator.guests import Guest
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ContractError, RemoteAgentError
from agentkd.exchange.keys import load_key_pair, new_key_pair, save_key_pair
from agentkd.knowledge.weights import read_metadata

FOLDER = Path(__file__).parents[2] / "examples" / "plain_agent"
CLASSES = 3
WHOLE = agentkd.ViewSettings(flip=0, color=0)
pytestmark = pytest.mark.process


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Gray images in which the brighter pixels are of higher classes."""
    place, random = tmp_path / "data", np.random.default_rng(3)
    for split, count in (("train", 8), ("validation", 4), ("test", 2)):
        for kind in ("images", "masks"):
            (place / kind / split).mkdir(parents=True)
        for number in range(count):
            labels = random.integers(0, CLASSES, (6, 6)).repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)
            pixels = (labels[..., None] * 85 + 42 + random.integers(-20, 20, (24, 24, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(place / "images" / split / f"{number}.ppm")
            Image.fromarray(labels).save(place / "masks" / split / f"{number}.pgm")
    layout = "layout: {images: 'images/{split}/{stem}.ppm', masks: 'masks/{split}/{stem}.pgm'}\n"
    (place / "dataset.yaml").write_text(f"name: grays\nclasses: [dark, gray, bright]\n{layout}")
    return place


class Guests:
    """Plain agents, started and ended."""

    def __init__(self, community: agentkd.Community, place: Path, ended: contextlib.ExitStack) -> None:
        self.community, self._place, self._ended = community, place, ended
        self.processes: list[subprocess.Popen[str]] = []

    def come(self, name: str, *options: str) -> tuple[Guest, "subprocess.Popen[str]"]:
        path = self._place / f"{name}.json"
        save_key_pair(path, new_key_pair())
        guest = self.community.guest(name, load_key_pair(path).public)
        start = [sys.executable, str(FOLDER / "agent.py"), "--key", str(path), "--classes", str(CLASSES)]
        start += [*options, *shlex.split(self.community.invitation)]
        process = subprocess.Popen(start, stdout=subprocess.PIPE, text=True)
        self._ended.callback(process.kill)
        self.processes.append(process)
        return guest, process


@pytest.fixture
def guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guests]:
    """A community of one agent of ours, and of those that come."""
    monkeypatch.syspath_prepend(str(FOLDER))
    with contextlib.ExitStack() as ended:
        with agentkd.Community(devices="cpu:1", record=tmp_path / "run") as community:
            made = Guests(community, tmp_path, ended)
            yield made
        assert [process.wait(timeout=10) for process in made.processes] == [0] * len(made.processes), "all were asked to leave"


def test_it_is_nothing_of_ours_and_needs_nothing_but_numpy_msgpack_and_sockets() -> None:
    imported = {
        name.partition(".")[0]
        for path in FOLDER.glob("*.py")
        if path.name != "pixels.py"
        for name in re.findall(r"^\s*(?:from|import) ([\w.]+)", path.read_text(), re.MULTILINE)
    }
    assert imported - sys.stdlib_module_names - {path.stem for path in FOLDER.glob("*.py")} == {"numpy", "msgpack", "zmq"}


def test_its_weights_say_of_which_architecture_and_classes_they_are(data: Path, tmp_path: Path) -> None:
    written = """
from pathlib import Path; import sys, numpy as np, network
names = network.read_names(Path(sys.argv[1]))
architecture = {"family": "pixels:linear", "num_classes": 3, "settings": {}, "code": network.CODE}
Path(sys.argv[2]).write_bytes(network.Network(architecture, np.zeros((3, 3)), np.zeros(3), names).file())
"""
    path = tmp_path / "weights.safetensors"
    subprocess.run([sys.executable, "-c", written, str(data), str(path)], cwd=FOLDER, check=True)
    said = read_metadata(path.read_bytes())
    assert said.classes == ("dark", "gray", "bright") and said.architecture is not None
    assert (said.architecture.family, said.architecture.num_classes) == ("pixels:linear", CLASSES)


@pytest.mark.parametrize(("classes", "is_kept"), [(CLASSES, True), (CLASSES + 1, False)])
def test_the_check_says_a_line_for_each_clause_and_at_last_how_many_it_keeps(tmp_path: Path, classes: int, is_kept: bool) -> None:
    for name in ("agent", "coordinator"):
        save_key_pair(tmp_path / f"{name}.json", new_key_pair())
    agent, coordinator = (load_key_pair(tmp_path / f"{name}.json").public for name in ("agent", "coordinator"))
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    start = [sys.executable, str(FOLDER / "agent.py"), "--key", str(tmp_path / "agent.json"), "--classes", str(CLASSES)]
    start += ["--join", endpoint, f"--coordinator-key={coordinator}"]
    with subprocess.Popen(start, stdout=subprocess.DEVNULL) as process:
        check = command("protocol", "check", endpoint, "--listen", "--leave", "--classes", classes)
        check += ["--key", str(tmp_path / "coordinator.json"), f"--agent-key={agent}"]
        done = subprocess.run(check, capture_output=True, text=True, timeout=150, env=environment(), check=False)
        assert process.wait(timeout=10) == 0, "it was asked to leave"
    *lines, last = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith("FAIL ")]
    assert all(line.startswith(("ok   ", "FAIL ")) for line in lines) and bool(failed) is not is_kept
    assert last == f"{len(lines) - len(failed)} of {len(lines)} clauses kept" and done.returncode == (0 if is_kept else 1)


def test_it_is_assessed_and_teaches_whoever_asks_for_its_soft_targets(guests: Guests) -> None:
    guest, process = guests.come("teacher")
    assert process.stdout is not None
    assert guest.weights == json.loads(process.stdout.readline())["weights"]
    images = torch.full((2, 3, 8, 8), 0.95)
    images[..., :4] = 0.05
    assert guest.assess(images, num_classes=CLASSES).predicted == (0.5, 0, 0.5)
    for codec, exact in (("float32", 1e-5), ("float16", 1e-2)):
        logits = guest.soft_targets(images, num_classes=CLASSES, codec=codec)
        expected = torch.tensor([16 * level * 0.05 - 8 * level**2 for level in (1 / 6, 1 / 2, 5 / 6)])
        assert torch.allclose(logits[0, :, 0, 0].float(), expected, atol=exact)
        assert logits.argmax(dim=1)[1].tolist() == [[0] * 4 + [2] * 4] * 8
    for wrong in (images * 2, images - 1):
        with pytest.raises(ContractError, match=r"\[0, 1\]"):
            guest.soft_targets(wrong, num_classes=CLASSES)
    with pytest.raises(RemoteAgentError, match="num_classes"):
        guest.assess(images, num_classes=CLASSES + 1)
    with pytest.raises(RemoteAgentError, match="codec"):
        guest.soft_targets(images, num_classes=CLASSES, codec="int8")


def test_it_learns_from_labels_and_what_it_hands_in_is_found_to_be_so(guests: Guests, data: Path) -> None:
    spec = f"folder:path={data}"
    guest, process = guests.come("learner", "--data", f"{open_dataset(spec).digest}={data}")
    guest.wait()  # who comes first is given work first
    student = guests.community.agent("student", "pixels:linear", num_classes=CLASSES)
    result = student.train(spec, epochs=20, learning_rate=0.5, views=WHOLE, batch_size=4).result(timeout=100)
    assert result.miou > 0.9 and result.epochs == 20
    assert result.num_parameters_total == 4 * CLASSES, "that the coordinator has counted: it looks at what guests hand in"
    assert result.environment.keys() == {"numpy"}, "it was this agent that learned"
    assert student.classes == ("dark", "gray", "bright"), "which its weights say"
    other = student.train(spec, epochs=1, precision="bfloat16").result(timeout=100)
    assert "torch" in other.environment, "what it does not know an agent of ours does"
    assert process.poll() is None


def learned_from_ours(guests: Guests, data: Path) -> agentkd.TaskResult:
    """Weights from one agent to another of another make, and soft targets back, which it asks for with its own images."""
    spec = f"folder:path={data}"
    guest, _ = guests.come("learner", "--data", f"{open_dataset(spec).digest}={data}")
    guest.wait()
    teacher, student = (guests.community.agent(name, "pixels:linear", num_classes=CLASSES) for name in ("teacher", "student"))
    teacher.train(spec, epochs=20, learning_rate=0.5, views=WHOLE).result(timeout=100)
    lesson = student.distill(teacher, spec, alpha=0, start="scratch", epochs=10, learning_rate=0.5, views=WHOLE)
    return lesson.result(timeout=100)


def test_it_learns_from_an_agent_of_ours_that_teaches_what_it_learned_before(guests: Guests, data: Path) -> None:
    assert learned_from_ours(guests, data).environment.keys() == {"numpy"}, "it was this agent that learned"


def test_what_it_learns_from_an_agent_of_ours_is_what_that_one_knows(guests: Guests, data: Path) -> None:
    assert learned_from_ours(guests, data).miou > 0.9


def test_an_agent_of_ours_learns_from_it(guests: Guests, data: Path) -> None:
    teacher, _ = guests.come("teacher")
    student = guests.community.agent("student", "unet", num_classes=CLASSES, base=8, depth=2)
    lesson = student.distill(teacher, f"folder:path={data}", alpha=0, start="scratch", epochs=1, views=WHOLE)
    exchange = lesson.result(timeout=100).exchange
    assert exchange is not None and exchange.requests >= 2

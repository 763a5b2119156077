"""A network comes out of a run, a bundle or a file as a module, by a digest or its first characters, and says what is not so."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import agentkd
from agentkd.architecture import Architecture
from agentkd.artifacts.journal import Journal, Record
from agentkd.artifacts.run_folder import RunFolder
from agentkd.code.loading import provide, provided
from agentkd.code.source import SourceCode
from agentkd.coordinator.importing import bring
from agentkd.errors import AgentKDError, ArtifactError, ConfigError, ContractError
from agentkd.knowledge.weights import encode_weights, read_metadata
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.report.packing import write_bundle
from agentkd.task import DataSource, Status, TaskResult, Train

CLASSES = ("Burnt", "Fire", "Smoke")
SMALL = {"base": 8, "depth": 2}


def state(architecture: Architecture, seed: int = 1) -> dict[str, torch.Tensor]:
    return dict(build(architecture, seed=seed).state_dict())


def record(folder: RunFolder, architecture: Architecture, *, seed: int = 1, classes: tuple[str, ...] = CLASSES) -> Record:
    """A training whose weights are in the run."""
    weights = folder.store.put(encode_weights(architecture, state(architecture, seed), classes))
    if architecture.code:
        folder.store.put(provided(architecture.code).encode())
    task = Train(architecture=architecture, data=DataSource(spec="generated:seed=1", content_digest="0" * 64), seed=seed)
    made = Record(task, TaskResult(status=Status.COMPLETED, weights=weights), "agent-1", 1, label=f"baseline {seed}")
    with Journal(folder.journal) as journal:
        journal.commit(made)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_a_network_is_found_by_its_digest_or_its_task_or_the_beginning_of_either(folder: RunFolder) -> None:
    architecture = resolve("unet", 3, SMALL)
    made = record(folder, architecture)
    record(folder, architecture, seed=2)
    image = torch.randint(0, 256, (3, 45, 70), dtype=torch.uint8)
    for name in (made.result.weights, made.result.weights[:10], made.task.key, made.task.key[:10]):
        for run in (folder.place, str(folder.place), folder):
            network = agentkd.load_network(name, run=run)
            assert (network.classes, network.architecture, network.training) == (CLASSES, architecture, False)
    with torch.no_grad():
        right = build(architecture, seed=1).eval()(((image / 255) - network.mean)[None] / network.deviation)["logits"]
        assert torch.allclose(network(image, raw=True), right, atol=1e-5)
        assert torch.equal(agentkd.load_network(name, run=folder, raw=True)(image), network(image, raw=True))


def test_a_beginning_that_several_have_lists_them_and_one_that_none_has_says_so(folder: RunFolder) -> None:
    made = [record(folder, resolve("unet", 3, SMALL), seed=seed).result.weights for seed in range(3)]
    with Journal(folder.journal) as journal:
        names = [*made, *(one.task.key for one in journal.records())]
    first = made[0]
    twin = folder.store.path(first).with_name(f"{first[:5]}{'0' * 59}.safetensors")
    twin.write_bytes(b"")
    with pytest.raises(
        ConfigError, match=rf"'{first[:5]}' could be .*{first[:16]} \(of baseline 0\).*give more characters"
    ) as said:
        agentkd.load_network(first[:5], run=folder)
    assert f"{twin.stem[:16]} (brought along)" in str(said.value)
    assert agentkd.load_network(first[:12], run=folder).classes == CLASSES
    absent = next(text for number in range(99999) if not any(name.startswith(text := f"{number:05x}") for name in names))
    with pytest.raises(ConfigError, match=f"nothing here begins with '{absent}'"):
        agentkd.load_network(absent, run=folder)


def test_it_comes_out_of_a_bundle_as_well(folder: RunFolder, tmp_path: Path) -> None:
    made = record(folder, resolve("unet", 3, SMALL))
    write_bundle(folder, tmp_path / "run.zip", "all")
    network = agentkd.load_network(made.result.weights[:12], run=tmp_path / "run.zip")
    assert torch.equal(network.network.head.weight, build(network.architecture, seed=1).head.weight)


def test_a_file_of_ours_says_what_it_is_and_is_not_taken_for_something_else(tmp_path: Path) -> None:
    architecture = resolve("pidnet_s", 3, {"planes": 16})
    (tmp_path / "ours.safetensors").write_bytes(encode_weights(architecture, state(architecture), CLASSES))
    network = agentkd.load_network(tmp_path / "ours.safetensors")
    assert (network.architecture, network.classes) == (architecture, CLASSES)
    again = agentkd.load_network(str(tmp_path / "ours.safetensors"), family="pidnet_s", num_classes=3, planes=16)
    assert torch.equal(again.network.conv1[0].weight, network.network.conv1[0].weight)
    for wrong in ({"family": "unet"}, {"num_classes": 19}, {"planes": 32}, {"no_such": 1}):
        with pytest.raises(ConfigError, match=f"say themselves what they are: {next(iter(wrong))} is"):
            agentkd.load_network(tmp_path / "ours.safetensors", **wrong)


def test_a_file_of_others_is_taken_for_what_is_said_of_it(tmp_path: Path) -> None:
    architecture = resolve("unet", 3, SMALL)
    save_file({f"module.{name}": value for name, value in state(architecture).items()}, tmp_path / "theirs.safetensors")
    network = agentkd.load_network(tmp_path / "theirs.safetensors", family="unet", num_classes=3, **SMALL)
    assert network.classes == () and torch.equal(network.network.head.weight, state(architecture)["head.weight"])
    with pytest.raises(ConfigError, match=r"do not say of which network.*family=\.\.\. and num_classes"):
        agentkd.load_network(tmp_path / "theirs.safetensors")
    with pytest.raises(ConfigError, match=r"not of this architecture: .*another number of classes"):
        agentkd.load_network(tmp_path / "theirs.safetensors", family="unet", num_classes=4, **SMALL)


def test_what_cannot_be_a_network_is_refused_with_the_reason(folder: RunFolder, tmp_path: Path) -> None:
    architecture = resolve("unet", 3, SMALL)
    data = encode_weights(architecture, state(architecture), CLASSES)
    (tmp_path / "cut.safetensors").write_bytes(data[:-100])
    spoiled = state(architecture)
    spoiled["head.bias"] = torch.tensor([0.0, torch.nan, 0.0])
    (tmp_path / "nan.safetensors").write_bytes(encode_weights(architecture, spoiled, CLASSES))
    renamed = {name.replace("head", "tail"): value for name, value in state(architecture).items()}
    (tmp_path / "renamed.safetensors").write_bytes(encode_weights(architecture, renamed, CLASSES))
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pth")
    made = record(folder, architecture)
    trace = folder.store.put(b"no tensors")
    for weights, kind, said in (
        ("cut.safetensors", ConfigError, "cut.safetensors"),
        ("nan.safetensors", ConfigError, "head.bias.*NaN"),
        ("renamed.safetensors", ConfigError, "head.*tail|tail.*head"),
        ("pickled.pth", ConfigError, r"pickled.*more than tensors"),
        ("absent.pth", ConfigError, "absent.pth"),
    ):
        with pytest.raises(kind, match=said):
            agentkd.load_network(tmp_path / weights)
    for weights, said in (
        ("c67", "no weights file c67; of a digest give at least 4 characters"),
        ("", "weights are given as ''; give a digest, or a file"),
        ("x" * 1000, "no weights file x{200}$"),
    ):
        for run in (None, folder):
            with pytest.raises(ConfigError, match=said):
                agentkd.load_network(weights, run=run)
    with pytest.raises(ConfigError, match="looked for in a run"):
        agentkd.load_network(made.result.weights)
    with pytest.raises(ConfigError, match=f"{trace[:12]}.* no weights"):
        agentkd.load_network(trace, run=folder)
    with pytest.raises(ArtifactError, match="is not a run folder"):
        agentkd.load_network(made.result.weights, run=tmp_path)
    folder.store.path(made.result.weights).write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=made.result.weights[:12]):
        agentkd.load_network(made.result.weights[:12], run=folder)


def test_weights_of_another_revision_are_taken_where_they_mean_the_same(folder: RunFolder) -> None:
    same, other = resolve("pidnet_s", 3, {"planes": 16}), resolve("cnn_i2i_bisenet", 3, {"width": 0.5, "i2i_width": 8})
    for architecture, revision, error in ((same, 1, None), (other, 1, ContractError), (same, 99, ConfigError)):
        data = encode_weights(architecture.replace(revision=revision), state(architecture))
        folder.place.mkdir(exist_ok=True)
        file = folder.place / "weights.safetensors"
        file.write_bytes(data)
        if error is None:
            assert agentkd.load_network(file).architecture == architecture
        else:
            with pytest.raises(error, match="revision"):
                agentkd.load_network(file)


def test_a_network_of_ones_own_is_built_by_the_code_here_if_it_is_the_same(folder: RunFolder) -> None:
    made = record(folder, resolve("tiny_networks:tiny", 3))
    network = agentkd.load_network(made.result.weights[:8], run=folder)
    assert network.architecture.normalization.mean[0] > 0.4 and network(torch.zeros(3, 40, 40)).shape == (1, 3, 40, 40)


def test_code_that_is_another_than_here_runs_only_where_that_is_allowed(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from torch import nn\n\n\ndef made(num_classes: int) -> nn.Module:\n    return nn.Conv2d(3, num_classes, 1)\n"
    code = provide(SourceCode(files={"elsewhere_only.py": text}))
    made = record(folder, resolve("elsewhere_only:made", 3, code=code))
    assert agentkd.load_network(made.result.weights, run=folder).architecture.code == code  # it runs in this process already
    monkeypatch.setattr("agentkd.deploy.loading.is_provided", lambda digest: False)
    with pytest.raises(ConfigError, match=r"elsewhere_only:made of code .* is not here; the run keeps it, and allow_code=True"):
        agentkd.load_network(made.result.weights, run=folder)
    assert agentkd.load_network(made.result.weights, run=folder, allow_code=True).architecture.code == code
    file = folder.store.path(made.result.weights)
    with pytest.raises(AgentKDError, match="give the run that keeps it"):
        agentkd.load_network(file)


def headed(learned: dict[str, tuple[str, ...]]) -> bytes:
    """Weights of a network with heads, of which these have learned; ``day`` did so last."""
    architecture = resolve("unet", 3, SMALL).with_heads({"day": 3, "roads": 2}, "day")
    return encode_weights(architecture, state(architecture), learned.get("day", ()), learned)


def test_of_several_heads_the_one_that_is_named_answers_with_its_classes(folder: RunFolder, tmp_path: Path) -> None:
    stored = headed({"day": CLASSES, "roads": ("Ground", "Road")})
    (tmp_path / "ours.safetensors").write_bytes(stored)
    record(folder, resolve("unet", 3, SMALL))
    digest = folder.store.put(stored)
    image = torch.rand(1, 3, 40, 56)
    for weights, run in ((digest, folder), (tmp_path / "ours.safetensors", None)):
        for head, classes in (("day", CLASSES), ("roads", ("Ground", "Road"))):
            network = agentkd.load_network(weights, run=run, head=head)
            assert (network.classes, network.architecture.head) == (classes, head) and f"head={head}" in repr(network)
            assert network(image).shape == (1, len(classes), 40, 56)
            plain = build(network.architecture, seed=1).eval()
            with torch.no_grad():
                expected = plain((image - network.mean) / network.deviation)["logits"]
                assert torch.allclose(network(image, raw=True), expected, atol=1e-5)
        there = r"day \(Burnt, Fire, Smoke\); roads \(Ground, Road\)"
        with pytest.raises(ConfigError, match=rf"have several heads; say which is meant, such as head='day': {there}"):
            agentkd.load_network(weights, run=run)
        with pytest.raises(ConfigError, match=rf"have no head 'sky'; there are {there}"):
            agentkd.load_network(weights, run=run, head="sky")
        with pytest.raises(ConfigError, match="num_classes is 2, not 3"):
            agentkd.load_network(weights, run=run, head="roads", num_classes=3)
    with pytest.raises(ConfigError, match=r"head: \['day'\] is list"):
        agentkd.load_network(digest, run=folder, head=["day"])  # type: ignore[arg-type]


def test_a_head_that_learned_nothing_does_not_answer_and_who_has_no_heads_is_asked_for_none(tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").write_bytes(headed({"day": CLASSES}))
    with pytest.raises(ConfigError, match=r"head 'roads' has learned nothing; there are day \(Burnt, Fire, Smoke\); roads \(has"):
        agentkd.load_network(tmp_path / "one.safetensors", head="roads")
    assert agentkd.load_network(tmp_path / "one.safetensors", head="day").classes == CLASSES
    (tmp_path / "unknown.safetensors").write_bytes(headed({}))
    assert agentkd.load_network(tmp_path / "unknown.safetensors", head="roads").classes == (), "nobody knows"
    architecture = resolve("unet", 3, SMALL)
    (tmp_path / "plain.safetensors").write_bytes(encode_weights(architecture, state(architecture), CLASSES))
    with pytest.raises(ConfigError, match="of a network with one head alone, without a name; leave out head='day'"):
        agentkd.load_network(tmp_path / "plain.safetensors", head="day")
    save_file(state(architecture), tmp_path / "theirs.safetensors")
    with pytest.raises(ConfigError, match="not known whether it has a head 'day'"):
        agentkd.load_network(tmp_path / "theirs.safetensors", family="unet", num_classes=3, head="day", **SMALL)


def test_the_one_head_of_a_network_need_not_be_named(tmp_path: Path) -> None:
    architecture = resolve("unet", 3, SMALL).with_heads({"only": 3})
    (tmp_path / "only.safetensors").write_bytes(encode_weights(architecture, state(architecture), CLASSES))
    for head in ("", "only"):
        network = agentkd.load_network(tmp_path / "only.safetensors", head=head)
        assert (network.architecture, network.classes) == (architecture, CLASSES)


def test_classes_are_kept_with_the_head_that_tells_them_apart_alone(tmp_path: Path) -> None:
    """The trunk of a network with several heads is taken, and nothing says that what is initialized anew knows classes."""
    (tmp_path / "headed.safetensors").write_bytes(headed({"day": CLASSES}))
    report = bring(tmp_path / "headed.safetensors", tmp_path / "trunk.safetensors", "unet", settings=SMALL)
    assert set(report.missing) == {"head.weight", "head.bias"}
    assert read_metadata((tmp_path / "trunk.safetensors").read_bytes()).classes == ()
    architecture = resolve("unet", 3, SMALL)
    (tmp_path / "plain.safetensors").write_bytes(encode_weights(architecture, state(architecture), CLASSES))
    bring(tmp_path / "plain.safetensors", tmp_path / "again.safetensors", "unet", settings=SMALL)
    assert read_metadata((tmp_path / "again.safetensors").read_bytes()).classes == CLASSES

"""What a network's numbers mean goes where its weights go: which classes, in which order, and images of which scale."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from reference.tasks import source
from torch import Tensor, nn

from agentkd.agents.feeding import view_images
from agentkd.agents.lessons import lesson_request, request_digest
from agentkd.agents.teaching import Teacher
from agentkd.agents.work import Surroundings, execute, measure
from agentkd.architecture import IMAGENET, UNIT, Architecture, Normalization
from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder
from agentkd.artifacts.store import Store
from agentkd.coordinator.guests import Guest
from agentkd.datasets.opening import open_dataset
from agentkd.errors import ConfigError, ContractError, RemoteProtocolError, TrainingError
from agentkd.knowledge import tensors
from agentkd.knowledge.contracts import agree_on_classes
from agentkd.knowledge.images import decode_images, encode_images, normalized
from agentkd.knowledge.weights import encode_weights, load_weights, read_metadata
from agentkd.messages.bodies import HelloRequest, KnowledgeKind, KnowledgeRequest
from agentkd.names import Digest
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.objectives import LOGITS
from agentkd.recipe import Arithmetic, Recipe, ViewSettings
from agentkd.task import Average, Evaluate, TeacherReference, Train
from agentkd.testing import Community

CPU = torch.device("cpu")
NAMES = ("sky", "road", "tree")
TURNED = ("tree", "road", "sky")
VIEWS = ViewSettings(crop_height=32, crop_width=32)
RECIPE: dict[str, Any] = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 2, "learning_rate": 0.05, "views": VIEWS}
NETWORK = resolve("unet", 3, {"base": 8, "depth": 2})


def scenes(place: Path, names: Sequence[str] = NAMES) -> str:
    """Pictures whose classes have these names, in the order of their numbers; else they are all the same."""
    place.mkdir()
    (place / "dataset.yaml").write_text(yaml.safe_dump({"name": "scenes", "classes": list(names)}))
    random = np.random.default_rng(1)
    for split in ("train", "validation", "test"):
        for kind in ("images", "masks"):
            (place / kind / split).mkdir(parents=True)
        for stem in "abcd":
            label = random.integers(0, 3, (32, 32), dtype=np.uint8)
            Image.fromarray(label).save(place / "masks" / split / f"{stem}.png")
            pixels = random.integers(0, 60, (32, 32, 3), dtype=np.uint8) + 90 * label[..., None]
            Image.fromarray(pixels.astype(np.uint8)).save(place / "images" / split / f"{stem}.png")
    return f"folder:path={place}"


@pytest.fixture
def ours(tmp_path: Path) -> str:
    return scenes(tmp_path / "ours")


@pytest.fixture
def turned(tmp_path: Path) -> str:
    return scenes(tmp_path / "turned", TURNED)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return RunFolder(tmp_path / "run").store


def weights_of(classes: Sequence[str] = (), architecture: Architecture = NETWORK, seed: int = 1) -> bytes:
    return encode_weights(architecture, dict(build(architecture, seed=seed).state_dict()), classes)


# Classes.


def test_a_training_writes_into_its_weights_which_classes_they_tell_apart_and_on_which_images(ours: str, store: Store) -> None:
    task = Train(architecture=NETWORK, data=source(ours), seed=1, view_seed=1, recipe=Recipe(**RECIPE))
    stored = store.get(execute(task, Surroundings(store, CPU)).weights)
    said = read_metadata(stored)
    assert said.classes == NAMES and said.architecture == NETWORK and said.architecture.normalization == IMAGENET


def test_weights_of_a_later_session_are_held_to_their_classes(tmp_path: Path, ours: str, turned: str) -> None:
    record = tmp_path / "run"
    with Community(devices="cpu:1", record=record) as community:
        digest = community.agent("teacher", "unet", base=8, depth=2).train(ours, **RECIPE).result().weights
    with Community(devices="cpu:1", record=record) as community:
        teacher = community.agent("again", "unet", weights=digest, base=8, depth=2)
        student = community.agent("student", "unet", base=8, depth=2)
        assert teacher.classes == NAMES
        with pytest.raises(ContractError, match=r"sky, road, tree.*tree, road, sky"):
            student.distill(teacher, turned, **RECIPE)
        with pytest.raises(ContractError, match="the same in another order"):
            teacher.evaluate(turned)
        lesson = student.distill(teacher, turned, class_map={name: name for name in TURNED}, **RECIPE)
        assert lesson.result().weights and community.agent("third", "unet").weights == ""
        (order,) = {reference.class_order for reference in _distills(record)}
        assert order == (2, 1, 0)


def _distills(record: Path) -> list[TeacherReference]:
    with Journal(record / "journal.sqlite", read_only=True) as journal:
        return [teacher for one in journal.records() for teacher in one.task.taught_by]


def test_a_file_of_our_weights_keeps_its_classes_under_another_digest(tmp_path: Path, ours: str) -> None:
    place = tmp_path / "mine.safetensors"
    place.write_bytes(weights_of(NAMES))
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        assert community.agent("mine", "unet", weights=place, base=8, depth=2).classes == NAMES


def test_a_network_that_becomes_another_forgets_the_classes_of_the_first(tmp_path: Path) -> None:
    place = tmp_path / "mine.safetensors"
    place.write_bytes(weights_of(NAMES))
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        handle = community.agent("mine", "unet", weights=place, base=8, depth=2)
        handle.become(resolve("unet", 3, {"base": 12, "depth": 2}))
        assert handle.classes == ()


def test_a_task_that_names_weights_with_other_classes_is_not_scored(turned: str, store: Store) -> None:
    weights = store.put(weights_of(NAMES))
    task = Evaluate(architecture=NETWORK, data=source(turned), initial_weights=weights)
    with pytest.raises(ContractError, match="classes"):
        measure(task, Surroundings(store, CPU))


def test_a_training_goes_on_with_other_classes_but_not_with_the_same_in_another_order(
    tmp_path: Path, ours: str, store: Store
) -> None:
    def go_on(classes: Sequence[str]) -> str:
        task = Train(
            architecture=NETWORK,
            data=source(ours),
            seed=1,
            view_seed=1,
            recipe=Recipe(**RECIPE),
            initial_weights=store.put(weights_of(classes)),
        )
        return execute(task, Surroundings(store, CPU)).weights

    assert read_metadata(store.get(Digest(go_on(("cat", "dog", "cow"))))).classes == NAMES
    assert go_on(())
    with pytest.raises(ContractError, match="the same in another order"):
        go_on(TURNED)


def test_labels_of_other_classes_say_nothing_about_a_network(tmp_path: Path, ours: str, turned: str) -> None:
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        network = community.agent("one", "unet", base=8, depth=2)
        network.train(ours, **RECIPE).result()
        assert network.assess(ours).miou is not None
        competence = network.assess(turned)
        assert competence.miou is None and competence.class_iou == () and competence.known_fraction is not None


def test_an_average_of_networks_with_other_classes_is_refused(ours: str, store: Store) -> None:
    def average(*classes: Sequence[str]) -> tuple[str, ...]:
        teachers = tuple(
            TeacherReference(architecture=NETWORK, weights=store.put(weights_of(names, seed=seed)))
            for seed, names in enumerate(classes)
        )
        task = Average(architecture=NETWORK, data=source(ours), teachers=teachers)
        return read_metadata(store.get(execute(task, Surroundings(store, CPU)).weights)).classes

    assert average(NAMES, NAMES) == average((), NAMES) == NAMES and average((), ()) == ()
    with pytest.raises(ContractError, match="the same in another order"):
        average((), NAMES, TURNED)


@pytest.mark.parametrize(
    ("asked", "fits"), [(NAMES, True), ((), True), (TURNED, False), (("sky", "road"), False), (("sky", "road", "Tree"), False)]
)
def test_a_teacher_compares_the_classes_that_it_is_asked_about_with_its_own(
    ours: str, asked: tuple[str, ...], fits: bool
) -> None:
    teacher = Teacher(NETWORK, Digest("ab" * 32), source(ours), stored=weights_of(NAMES), device=CPU)
    request = KnowledgeRequest(
        kind=KnowledgeKind.SOFT_TARGETS,
        weights="ab" * 32,
        num_classes=3,
        classes=asked,
        dataset=open_dataset(ours).digest,
        view_settings=VIEWS,
        views=((0, 1),),
    )
    if fits:
        teacher.answer(request)
    else:
        with pytest.raises(ContractError, match=r"classes.*class_map"):
            teacher.answer(request)


def test_a_student_says_its_classes_unless_a_map_is_known_and_the_question_is_the_same() -> None:
    feed = SimpleNamespace(dataset=SimpleNamespace(digest="d", classes=NAMES), views=lambda step: ((0, step),))
    distillation = SimpleNamespace(payloads=(LOGITS,), codec="float16", max_kl=0.0, arithmetic=Arithmetic())
    task: Any = SimpleNamespace(distillation=distillation, architecture=NETWORK, recipe=SimpleNamespace(views=VIEWS))
    plain = TeacherReference(architecture=NETWORK, weights=Digest("ab" * 32))
    straight, mapped = (
        lesson_request(task, feed, teacher, 0)  # type: ignore[arg-type]
        for teacher in (plain, plain.replace(class_order=(2, 1, 0)))
    )
    assert straight.classes == NAMES and mapped.classes == ()
    assert request_digest(straight) == request_digest(straight.model_copy(update={"classes": ()})), "recordings stay found"


@pytest.mark.parametrize("malformed", [5, ["a", 5], "abc", [["a"]], ["a" * 201], ["a"] * 1001])
def test_classes_that_are_none_are_refused(malformed: object) -> None:
    with pytest.raises(RemoteProtocolError, match=r"say of themselves is malformed: classes"):
        read_metadata(tensors.encode({}, {"classes": malformed}))


def test_what_others_add_to_their_weights_is_passed_over() -> None:
    assert read_metadata(tensors.encode({}, {"author": "me", "classes": ["a", "b"]})).classes == ("a", "b")


def test_a_guests_classes_are_those_of_its_greeting_until_a_script_says_others() -> None:
    crew: Any = SimpleNamespace(invite=lambda peer: None, greeting=lambda key: HelloRequest(classes=NAMES))
    guest = Guest(crew, "guest", "a" * 40)  # type: ignore[arg-type]
    assert guest.classes == NAMES
    guest.classes = TURNED
    assert guest.classes == TURNED


def test_who_does_not_know_its_classes_agrees_with_everybody() -> None:
    agree_on_classes((), NAMES)
    agree_on_classes(NAMES, ())
    with pytest.raises(ContractError, match="they are others"):
        agree_on_classes(("cat", "dog"), NAMES)


# The scale of images.


def own(folder: Path, monkeypatch: pytest.MonkeyPatch, declared: str) -> Architecture:
    """A user's own network that declares its normalization so."""
    text = "from torch import nn\n\n\ndef net(num_classes):\n    return nn.Conv2d(3, num_classes, 1)\n\n\n" + declared
    (folder / "scaled_net.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    return resolve("scaled_net:net", 3)


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("", UNIT),
        ('net.normalization = "unit"', UNIT),
        ('net.normalization = "imagenet"', IMAGENET),
        (
            'net.normalization = {"mean": (0.5, 0.5, 0.5), "deviation": (0.25, 0.25, 0.25)}',
            Normalization(mean=(0.5, 0.5, 0.5), deviation=(0.25, 0.25, 0.25)),
        ),
    ],
)
def test_an_own_network_sees_images_as_its_builder_declares_and_in_0_to_1_if_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: str, declared: str, expected: Normalization
) -> None:
    architecture = own(tmp_path, monkeypatch, declared)
    assert architecture.normalization == expected
    task = Train(architecture=architecture, data=source(ours), seed=1, view_seed=1, recipe=Recipe(**RECIPE))
    seen: list[Tensor] = []
    hook = nn.modules.module.register_module_forward_pre_hook(
        lambda module, given: seen.append(given[0].detach().clone()) if isinstance(module, nn.Conv2d) else None
    )
    try:
        execute(task, Surroundings(RunFolder(tmp_path / "run").store, CPU))
    finally:
        hook.remove()
    dataset = open_dataset(ours)
    whole = torch.stack([torch.tensor(dataset.sample(i).image).permute(2, 0, 1) for i in dataset.splits["validation"]])
    validated = [images for images in seen if images.shape == whole.shape]
    assert validated and torch.equal(validated[-1], normalized(whole.float() / 255, expected))


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ('net.normalization = "imagnet"', r"there is no 'imagnet'; there are unit, imagenet"),
        ('net.normalization = {"mean": (0.5, 0.5, 0.5), "deviation": (0.0, 1.0, 1.0)}', "deviation"),
        ('net.normalization = {"mean": (0.5, 0.5), "deviation": (1.0, 1.0, 1.0)}', "mean"),
        ("net.normalization = 255", "normalization"),
    ],
)
def test_a_normalization_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        own(tmp_path, monkeypatch, declared)


def test_the_normalization_is_part_of_what_an_architecture_goes_by_but_the_one_that_all_had() -> None:
    other = NETWORK.replace(normalization=UNIT)
    assert other.digest != NETWORK.digest and "normalization" not in NETWORK.canonical()
    assert Architecture.model_validate(other.canonical()) == other


def test_weights_that_learned_on_images_of_another_scale_are_refused() -> None:
    other = NETWORK.replace(normalization=UNIT)
    with pytest.raises(ContractError, match=r"normalization.*imagenet.*unit"):
        load_weights(build(other), weights_of(), other)


def test_a_file_of_weights_that_learned_on_images_of_another_scale_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = own(tmp_path, monkeypatch, "")
    place = tmp_path / "mine.safetensors"
    place.write_bytes(weights_of(architecture=architecture.replace(normalization=IMAGENET)))
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        with pytest.raises(ConfigError, match=r"normalization.*imagenet.*unit"):
            community.agent("mine", "scaled_net:net", weights=place)
        place.write_bytes(weights_of(architecture=architecture))
        assert community.agent("mine", "scaled_net:net", weights=place).weights


def test_images_that_are_sent_become_the_views_that_a_teacher_makes_itself_to_the_bit(ours: str) -> None:
    dataset, keys = open_dataset(ours), [(0, 1), (2, 7)]
    settings = ViewSettings(crop_height=24, crop_width=24)
    for normalization in (IMAGENET, UNIT, Normalization(mean=(0.1, 0.2, 0.3), deviation=(0.7, 0.11, 3.0))):
        sent = decode_images(encode_images(view_images(dataset, keys, settings, UNIT)))
        assert torch.equal(normalized(sent, normalization), view_images(dataset, keys, settings, normalization))


def test_a_teacher_answers_the_same_for_views_and_for_their_images(ours: str) -> None:
    teacher = Teacher(NETWORK, Digest("ab" * 32), source(ours), stored=weights_of(NAMES), device=CPU)
    request = KnowledgeRequest(
        kind=KnowledgeKind.SOFT_TARGETS,
        weights="ab" * 32,
        num_classes=3,
        dataset=open_dataset(ours).digest,
        view_settings=VIEWS,
        views=((0, 1), (1, 2)),
        codec="float32",
    )
    named = bytes(teacher.answer(request).parcel.view)
    images = encode_images(view_images(open_dataset(ours), request.views, VIEWS, UNIT))
    assert bytes(teacher.answer(request.model_copy(update={"views": ()}), images).parcel.view) == named


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.full((1, 3, 8, 8), 1.01), r"\[0, 1\]"),
        (torch.full((1, 3, 8, 8), -0.01), r"\[0, 1\]"),
        (torch.full((1, 3, 8, 8), 255.0), r"\[0, 1\].*divided by 255"),
        (torch.zeros(3, 8, 8), "N,C,H,W"),
        (torch.zeros(1, 17, 8, 8), "N,C,H,W"),
        (torch.zeros(0, 3, 8, 8), "N,C,H,W"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.float16), "float32"),
    ],
)
def test_images_of_another_form_or_scale_are_refused(images: Tensor, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        decode_images(tensors.encode({"images": images}))


@pytest.mark.parametrize("wrong", [torch.full((1, 3, 8, 8), 2.0), torch.zeros(3, 8, 8), torch.full((1, 3, 8, 8), torch.nan)])
def test_images_of_another_form_or_scale_are_not_sent(wrong: Tensor) -> None:
    with pytest.raises(ContractError, match="images"):
        encode_images(wrong)


def test_a_file_without_images_is_refused() -> None:
    with pytest.raises(ContractError, match="images"):
        decode_images(tensors.encode({"pictures": torch.zeros(1, 3, 8, 8)}))


def test_what_a_script_does_not_know_the_agent_does(tmp_path: Path, ours: str, turned: str) -> None:
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        teacher = community.agent("teacher", "unet", base=8, depth=2)
        teacher.train(ours, **RECIPE).result()
        teacher.classes = ()
        student = community.agent("student", "unet", base=8, depth=2)
        with pytest.raises(TrainingError, match="classes"):
            student.distill(teacher, turned, **RECIPE).result()

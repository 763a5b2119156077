"""What is made of a network without teaching it: always in evaluation mode, and by the definitions of the documents."""

import json
import math
import time
from pathlib import Path

import pytest
import torch
from reference import training
from reference.scenarios import SCENES
from reference.tasks import average, look, put, run, small, source
from torch import Tensor, nn
from torch.nn import functional as F

from agentkd.agents.assessing import assess
from agentkd.agents.teaching import Teacher
from agentkd.agents.work import encode_weights
from agentkd.architecture import IMAGENET, UNIT
from agentkd.artifacts.store import Store
from agentkd.datasets.opening import open_dataset
from agentkd.datasets.views import make_view, whole_view
from agentkd.errors import ContractError
from agentkd.knowledge import tensors
from agentkd.knowledge.images import encode_images
from agentkd.messages.bodies import AssessRequest
from agentkd.networks.build import build
from agentkd.recipe import ViewSettings
from agentkd.task import Consolidation, TaskResult

CPU = torch.device("cpu")
VIEWS = ((0, 5), (3, 6))
CROP = ViewSettings(crop_height=32, crop_width=32)
DATA = open_dataset(SCENES)
CLASSES = 5
SEED = 3  # a network that tells four classes apart


def network(seed: int = SEED) -> nn.Module:
    """Untrained; in training mode its normalization would give other numbers."""
    return build(small(), seed=seed).eval()


def done(store: Store, kind: str, **fields: object) -> TaskResult:
    return run(look(kind, put(store, small(), SEED), **fields), store)


def whole(split: str = "validation") -> tuple[Tensor, Tensor]:
    views = [whole_view(DATA, index, IMAGENET) for index in DATA.splits[split]]
    return torch.stack([torch.from_numpy(v.image) for v in views]), torch.stack([torch.from_numpy(v.label).long() for v in views])


def logits_of(images: Tensor) -> Tensor:
    """One image after the other, as they are assessed."""
    with torch.no_grad():
        return torch.cat([network()(image[None])["logits"] for image in images])


def energies(logits: Tensor) -> Tensor:
    return -torch.log(torch.exp(logits.double()).sum(dim=1))


def test_feature_maps_are_those_of_the_network_in_evaluation_mode(tmp_path: Path) -> None:
    store = Store(tmp_path)
    result = done(store, "features", views=VIEWS, taps=("body.3",), view_settings=CROP)
    found = tensors.decode(store.get(result.knowledge))
    images = torch.stack([torch.from_numpy(make_view(DATA, index, seed, CROP, IMAGENET).image) for index, seed in VIEWS])
    heard: list[Tensor] = []
    built = network()
    built.get_submodule("network.body.3").register_forward_hook(lambda module, inputs, output: heard.append(output))
    with torch.no_grad():
        assert torch.allclose(found["logits"], built(images)["logits"], atol=1e-6)
        assert torch.allclose(found["body.3"], heard[0], atol=1e-6)
        assert not torch.allclose(found["logits"], built.train()(images)["logits"], atol=1e-2), "the mode makes a difference"
    told = json.loads(json.dumps(tensors.read_metadata(store.get(result.knowledge))))
    assert told == {"kind": "feature_maps", "weights": put(store, small(), SEED), "views": [list(view) for view in VIEWS]}


def test_an_assessment_is_of_the_network_in_evaluation_mode(tmp_path: Path) -> None:
    home = source(SCENES.replace("seed=5", "seed=6"))
    found = done(Store(tmp_path), "assess", home=home).competence
    assert found is not None
    images, labels = whole()
    logits = logits_of(images)
    full = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    counts = torch.bincount(full.argmax(dim=1).flatten(), minlength=CLASSES).double()
    assert found.predicted == pytest.approx((counts / counts.sum()).tolist())
    at_home = open_dataset(home.spec)
    known = torch.stack([torch.from_numpy(whole_view(at_home, index, IMAGENET).image) for index in at_home.splits["validation"]])
    usual = torch.quantile(energies(logits_of(known)).flatten(), torch.tensor([0.5, 0.95], dtype=torch.float64))
    assert found.energies == pytest.approx(usual.tolist(), rel=1e-5)
    assert found.known_fraction == pytest.approx(float((energies(logits) <= usual[1]).double().mean()), abs=2e-3)
    course = training.Course({}, (), [training.Batch(images, labels)], "", CLASSES, 255)
    assert found.miou == pytest.approx(training.mean_iou(network(), course), abs=1e-9) and len(found.class_iou) == CLASSES
    assert found.num_images == len(images) and found.split == "validation" and found.dataset == DATA.digest
    assert found.calibration_error == pytest.approx(calibration(full, labels), rel=1e-9)
    assert 0 < found.known_fraction < 1


def calibration(logits: Tensor, labels: Tensor) -> float:
    """In 15 bins of equal width: how far confidence and accuracy are apart, weighted by the pixels in each."""
    confidence, predicted = logits.softmax(dim=1).permute(0, 2, 3, 1)[labels != 255].double().max(dim=1)
    right = (predicted == labels[labels != 255]).double()
    total = 0.0
    for number in range(15):
        mine = (confidence >= number / 15) & ((confidence < (number + 1) / 15) | (number == 14))
        total += abs(float(confidence[mine].sum() - right[mine].sum()))
    return total / len(right)


def test_without_labels_or_a_home_nothing_is_said_about_them(tmp_path: Path) -> None:
    found = done(Store(tmp_path), "assess").competence
    assert found is not None and found.known_fraction is None and found.energies is None and found.miou is not None
    hidden = source(f"unlabelled:{SCENES}").model_copy(update={"validation": "train"})
    store = Store(tmp_path)
    blind = run(look("assess", put(store, small(), SEED)).replace(data=hidden), store).competence
    assert blind is not None and (blind.miou, blind.class_iou, blind.calibration_error) == (None, (), None)


def test_an_evaluation_scores_and_pictures_the_network_in_evaluation_mode(tmp_path: Path) -> None:
    store = Store(tmp_path)
    result = done(store, "evaluate")
    images, labels = whole()
    course = training.Course({}, (), [training.Batch(images, labels)], "", CLASSES, 255)
    assert result.miou == pytest.approx(training.mean_iou(network(), course), abs=1e-9)
    pictures = tensors.decode(store.get(result.predictions))
    full = F.interpolate(logits_of(images[:4]), size=labels.shape[-2:], mode="bilinear", align_corners=False).argmax(dim=1)
    assert list(pictures) == [f"sample.{index}" for index in DATA.splits["validation"][:4]]
    assert all(torch.equal(picture.long(), expected) for picture, expected in zip(pictures.values(), full, strict=True))


def test_an_average_is_by_shares_and_counters_are_the_first_ones(tmp_path: Path) -> None:
    store = Store(tmp_path)
    a, b = ({name: tensor.clone() for name, tensor in build(small(), seed=seed).state_dict().items()} for seed in (1, 2))
    counters = [name for name, tensor in a.items() if not tensor.is_floating_point()]
    for number, state in enumerate((a, b), start=3):
        state.update({name: torch.tensor(number) for name in counters})
    first, second = (store.put(encode_weights(small(), state)) for state in (a, b))
    mean = tensors.decode(store.get(run(average({first: 0.6, second: 1.4}), store).weights))
    assert mean.keys() == a.keys() and counters
    for name, value in mean.items():
        wanted = (0.3 * a[name].double() + 0.7 * b[name].double()).float() if value.is_floating_point() else a[name]
        assert torch.equal(value, wanted), "to the bit, since the shares are no short numbers"


def test_a_teacher_looks_at_strangers_images_in_evaluation_mode() -> None:
    stored = encode_weights(small(), dict(network().state_dict()))
    home = source(SCENES.replace("seed=5", "seed=6"))
    teacher = Teacher(small(), "ab" * 32, home, stored=stored, device=CPU)
    images, _ = whole("train")
    sent = encode_images(
        torch.stack([torch.from_numpy(whole_view(DATA, index, UNIT).image) for index in DATA.splits["train"][:4]])
    )
    with pytest.raises(ContractError, match="num_classes"):
        teacher.assess(AssessRequest(num_classes=CLASSES + 1), sent)
    reply = teacher.assess(AssessRequest(num_classes=CLASSES), sent)
    with torch.no_grad():
        logits = network()(images[:4])["logits"]
    counts = torch.bincount(logits.argmax(dim=1).flatten(), minlength=CLASSES).double()
    assert reply.predicted == pytest.approx((counts / counts.sum()).tolist(), abs=1e-9) and reply.num_images == 4
    at_home = open_dataset(home.spec)
    known = torch.stack([torch.from_numpy(whole_view(at_home, index, IMAGENET).image) for index in at_home.splits["validation"]])
    bound = torch.quantile(energies(logits_of(known)).flatten(), 0.95)
    assert reply.known_fraction == pytest.approx(float((energies(logits) <= bound).double().mean()), abs=2e-3)
    teacher.close()
    stranger = Teacher(small(), "ab" * 32, None, stored=stored, device=CPU)
    assert stranger.assess(AssessRequest(num_classes=CLASSES), sent).known_fraction is None
    with pytest.raises(ContractError, match=r"images.*\[0, 1\].*each network normalizes for itself"):
        stranger.assess(AssessRequest(num_classes=CLASSES), tensors.encode({"images": images[:4]}))


def test_what_matters_now_is_added_to_what_mattered_before_which_fades(tmp_path: Path) -> None:
    store = Store(tmp_path)
    weights = put(store, small(), SEED)
    now = tensors.decode(store.get(run(look("consolidate", weights), store).knowledge))
    named = dict(network().named_parameters())
    assert now.keys() == named.keys() and all(bool((value >= 0).all()) for value in now.values())
    total = sum(float(value.double().sum()) for value in now.values())
    assert total / sum(value.numel() for value in now.values()) == pytest.approx(1.0, rel=1e-5), "the mean is one"
    before = {name: torch.rand(value.shape, generator=torch.Generator().manual_seed(1)) for name, value in now.items()}
    kept = Consolidation(anchors=weights, importance=store.put(tensors.encode(before)), decay=0.3)
    both = tensors.decode(store.get(run(look("consolidate", weights, consolidation=kept), store).knowledge))
    assert all(torch.allclose(both[name], 0.3 * before[name] + now[name], atol=1e-6) for name in now)


@pytest.mark.parametrize("kind", ["features", "assess", "evaluate", "consolidate", "average"])
def test_a_result_says_the_seconds_that_it_took(tmp_path: Path, kind: str) -> None:
    store = Store(tmp_path)
    started = time.monotonic()
    if kind == "average":
        result = run(average({put(store, small(), 1): 1.0}), store)
    else:
        seen = {"views": VIEWS, "taps": ("body.3",), "view_settings": CROP} if kind == "features" else {}
        result = done(store, kind, **seen)
    assert 0 < result.seconds <= time.monotonic() - started


def test_weights_of_another_architecture_are_in_no_average(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ContractError, match="network"):
        run(average({put(store, small(), 1): 1.0, put(store, small(10), 2): 1.0}), store)


def test_who_is_too_sure_here_and_too_modest_there_is_not_well_calibrated() -> None:
    _, labels = whole()
    truth = F.one_hot(labels.where(labels != 255, torch.zeros_like(labels)), CLASSES).permute(0, 3, 1, 2).float()
    logits = truth.clone()
    logits[0::3] *= math.log(4 * 0.9 / 0.1)
    logits[1::3] *= math.log(4 * 0.935 / 0.065)  # in the last of fifteen bins, not of sixteen
    logits[2::3] = 200 * logits[2::3].roll(1, dims=1)  # certain, and wrong
    said = iter(logits)

    class Scripted(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"logits": next(said)[None]}

    found = assess(Scripted(), look("assess", "ab" * 32), CPU).calibration_error
    assert found == pytest.approx(calibration(logits, labels), rel=1e-9)

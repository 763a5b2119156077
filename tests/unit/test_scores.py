"""What is strange to a network, by each score, and how right a classifier is."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiments import SPEC

import agentkd
from agentkd.errors import ConfigError, ContractError, TrainingError
from agentkd.knowledge.scores import SCORES, Mahalanobis, entropy, max_softmax
from agentkd.names import Digest
from agentkd.networks.families import resolve
from agentkd.task import Assess, DataSource, EpochResult, ScoreName, TaskResult, read_task
from agentkd.testing import Community
from agentkd.training.metrics import SegmentationMetrics, image_classes

RECIPE: dict[str, Any] = {"batch_size": 4, "views": agentkd.ViewSettings(crop_height=32, crop_width=32), "learning_rate": 0.05}
IGNORE = 255


@pytest.fixture(autouse=True)
def _own_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


def test_scores_of_logits_are_those_of_their_definitions() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]]))[..., None, None] + 3
    assert max_softmax(logits).flatten().tolist() == pytest.approx([-0.5, -1 / 3])
    assert entropy(logits).flatten().tolist() == pytest.approx([1.5 * math.log(2), math.log(3)])
    for name, score in SCORES.items():
        strange = score(torch.zeros(1, 4, 2, 3))
        assert strange.shape == (1, 2, 3), name
        assert (score(10 * torch.eye(4)[:1, :, None, None]) < strange).all(), f"{name}: who is sure is less strange"
    certain = torch.tensor([1e4, -1e4])[None, :, None, None]
    assert entropy(certain).item() == 0 and torch.isfinite(max_softmax(certain)).all()


def test_the_mahalanobis_distance_is_that_of_a_hand_computed_case() -> None:
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [2.0, 4.0], [10.0, 2.0], [12.0, 2.0], [10.0, 6.0], [12.0, 6.0]])
    score = Mahalanobis.fit(features, torch.tensor([7, 7, 7, 7, 2, 2, 2, 2]))  # means (1, 2), (11, 4); variances 1, 4
    asked = torch.tensor([[1.0, 2.0], [3.0, 2.0], [1.0, 8.0], [11.0, 6.0]])
    assert score(asked).flatten().tolist() == pytest.approx([0, 4, 9, 1], abs=1e-4)
    assert score(asked.T[None, :, :, None]).shape == (1, 4, 1), "features [N,C,h,w] likewise"
    turned = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    again = Mahalanobis.fit(features @ turned, torch.tensor([0] * 4 + [1] * 4))
    assert again(asked @ turned).flatten().tolist() == pytest.approx([0, 4, 9, 1], abs=1e-4), "in any basis"


def test_features_that_never_vary_or_are_none_are_not_divided_by() -> None:
    features = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
    assert torch.isfinite(Mahalanobis.fit(features, torch.tensor([0, 0]))(features)).all()
    alone = Mahalanobis.fit(features[:1], torch.tensor([3]))
    assert alone(features).flatten().tolist() == pytest.approx([0, 4])
    for wrong, classes in ((features[:0], torch.zeros(0)), (features, torch.zeros(3)), (features[0], torch.zeros(2))):
        with pytest.raises(ContractError):
            Mahalanobis.fit(wrong, classes)


def test_a_task_by_energy_is_written_as_before_there_were_other_scores() -> None:
    work: dict[str, Any] = {"architecture": resolve("unet", 5, {}), "data": DataSource(spec="s", content_digest=Digest("d"))}
    task = Assess(**work, initial_weights=Digest("1" * 64))
    assert not {"score", "tap"} & {*task.canonical(), *task.model_dump(mode="json")}, "an agent that knows no scores reads it"
    other = task.replace(score="mahalanobis", tap="layer1.0")
    assert read_task(other.canonical()) == other and other.key != task.key and other.canonical()["tap"] == "layer1.0"
    for fields in (
        {"score": "odin"},
        {"tap": "layer1"},
        {"score": "entropy", "tap": "layer1"},
        {"score": "mahalanobis", "tap": "a b"},
    ):
        with pytest.raises(ValueError):
            Assess(**work, initial_weights=Digest("1" * 64), **fields)


def test_an_agent_says_by_each_score_what_it_knows(tmp_path: Path) -> None:
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        agent = community.agent("a", "tiny_networks:tiny")
        agent.train(SPEC, epochs=2, **RECIPE).result()
        names: tuple[ScoreName, ...] = ("energy", "max_softmax", "entropy", "mahalanobis")
        found = {name: agent.assess(SPEC, score=name) for name in names}
        for name, competence in found.items():
            assert competence.score == name and competence.known_fraction == pytest.approx(0.95, abs=0.01), "its own validation"
            assert (competence.energies is not None) == (name == "energy"), "tiles are routed by energies alone"
        tapped = agent.assess(SPEC, score="mahalanobis", tap="body")
        strange = f"{SPEC},light=infrared"
        assert (agent.assess(strange, score="mahalanobis", tap="body").known_fraction or 0) < (tapped.known_fraction or 0)
        unlabelled = agent.assess(SPEC, score="mahalanobis", home=f"unlabelled:{SPEC}")
        assert unlabelled.known_fraction == pytest.approx(0.95, abs=0.01), "its own predictions stand in for labels"
        assert agent.assess(SPEC) == found["energy"] and community.who_knows(SPEC, score="entropy")[0][1] == found["entropy"]
        with pytest.raises(ConfigError, match="score"):
            agent.assess(SPEC, score="odin")  # type: ignore[arg-type]
        with pytest.raises(TrainingError, match="nowhere"):
            agent.assess(SPEC, score="mahalanobis", tap="nowhere")


# Classifiers.


def test_the_class_of_an_image_is_that_of_most_of_its_labelled_pixels() -> None:
    labels = torch.tensor([[[0, 1], [1, IGNORE]], [[2, 2], [0, 0]], [[IGNORE] * 2] * 2, [[IGNORE, IGNORE], [IGNORE, 2]]])
    assert image_classes(labels, 3, IGNORE).tolist() == [1, 0, IGNORE, 2]


def test_accuracy_is_of_whole_images_and_of_classifiers_alone() -> None:
    labels = torch.zeros(4, 8, 8, dtype=torch.long)
    labels[1], labels[2], labels[3] = 1, 2, IGNORE
    answers = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 2]), 3).float()[..., None, None]
    classifier, dense, small = (SegmentationMetrics(3, IGNORE) for _ in range(3))
    classifier.update(answers[:2], labels[:2])
    classifier.update(answers[2:], labels[2:])
    assert classifier.scores().accuracy == pytest.approx(2 / 3), "an image without labels does not count"
    assert classifier.scores().judged_by == pytest.approx(2 / 3) != classifier.scores().miou
    dense.update(answers.expand(-1, -1, 2, 2), labels)
    assert dense.scores().accuracy is None and dense.scores().judged_by == dense.scores().miou
    small.update(answers, labels[:, :1, :1])
    assert small.scores().accuracy is None, "an image of one pixel is not classified but segmented"


def test_a_classifier_is_trained_evaluated_and_compared_by_accuracy(tmp_path: Path) -> None:
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        agent, dense = community.agent("c", "tiny_networks:classifier"), community.agent("d", "tiny_networks:tiny")
        result = agent.train(SPEC, epochs=6, **RECIPE).result()
        accuracies = [epoch.accuracy for epoch in result.history]
        assert None not in accuracies and result.best_epoch == 1 + int(np.argmax(accuracies))
        assert result.accuracy == max(accuracies) == result.judged_by == agent.score
        data = agentkd.open_dataset(SPEC)
        maps = agent.feature_maps(
            data.views(data.splits["test"], settings=agentkd.ViewSettings(scale_min=1, scale_max=1, flip=0, color=0))
        ).result()["logits"]
        truth = [np.bincount(data.sample(i).label[data.sample(i).label < 5], minlength=5).argmax() for i in data.splits["test"]]
        right = sum(int(a) == int(b) for a, b in zip(maps[..., 0, 0].argmax(dim=1), truth, strict=True)) / len(truth)
        assert agent.evaluate(SPEC).accuracy == right == agent.assess(SPEC, split="test").accuracy
        segmented = dense.train(SPEC, epochs=1, **RECIPE).result()
        assert segmented.accuracy is None and segmented.judged_by == segmented.miou == dense.score


def test_results_of_before_are_judged_by_miou() -> None:
    assert TaskResult.model_validate({"status": "completed", "miou": 0.5}).judged_by == 0.5
    assert EpochResult(epoch=1, loss=1, miou=0.25, seconds=1).judged_by == 0.25

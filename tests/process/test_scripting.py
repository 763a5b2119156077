"""Scripts: the examples run and say what they should; weights come from files, are averaged, and looked at without learning."""

from pathlib import Path

import pytest
import torch
from experiments import EXAMPLES, SPEC, environment, load_example
from safetensors.torch import save_file

import agentkd
from agentkd.artifacts.journal import Journal
from agentkd.artifacts.store import Store
from agentkd.errors import ChannelClosedError
from agentkd.knowledge import tensors
from agentkd.knowledge.weights import encode_weights
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.task import TaskResult

VIEWS = agentkd.ViewSettings(crop_height=32, crop_width=32, scale_min=1.0, scale_max=1.0)
NETWORK = {"base": 8, "depth": 2}
pytestmark = pytest.mark.process


def test_the_exchange_example_hands_over_every_kind_of_knowledge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / "exchange.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40
    load_example("exchange").main(record=str(tmp_path / "run"), epochs=1)
    said = capsys.readouterr().out
    assert "step 8 of 8" in said and "{'encoder.1': (2, 32, 16, 16), 'logits': (2, 5, 32, 32)}" in said
    assert said.count("calibration error") == 2


def test_weights_from_files_are_taken_averaged_assessed_and_tapped(tmp_path: Path) -> None:
    network = resolve("unet", 5, NETWORK)
    states = [dict(build(network, seed=seed).state_dict()) for seed in (1, 2)]
    (tmp_path / "ours.safetensors").write_bytes(encode_weights(network, states[0]))
    save_file(states[1], tmp_path / "plain.safetensors")
    data = agentkd.open_dataset(SPEC)
    with agentkd.Community(devices="cpu:1", record=tmp_path / "run") as community:
        ours = community.agent("ours", "unet", weights=tmp_path / "ours.safetensors", **NETWORK)
        assert ours.architecture == network, "the file says how many classes it has"
        plain = community.agent("plain", "unet", weights=tmp_path / "plain.safetensors", num_classes=5, **NETWORK)
        with pytest.raises(agentkd.ConfigError, match=r"tensors belong to this network.*right settings"):
            community.agent("wrong", "unet", weights=tmp_path / "plain.safetensors", num_classes=5, base=16, depth=2)

        competence = ours.assess(data)
        assert competence.known_fraction is None, "nobody knows what it learned"
        assert competence.weights == ours.weights and competence.dataset == data.digest and competence.num_images == 8
        assert sum(competence.predicted) == pytest.approx(1) and 0 <= (competence.calibration_error or 0) <= 1
        assert competence.miou == ours.evaluate(data, split="validation").miou

        views = data.views([0, 5], seed=3, settings=VIEWS)
        maps, again = ours.feature_maps(views, taps=["encoder.0"]), ours.feature_maps(views, taps=["encoder.0"])
        assert torch.equal(maps.result()["encoder.0"], again.result()["encoder.0"])
        with pytest.raises(agentkd.TrainingError, match="spp"):
            ours.feature_maps(views, taps=["spp"]).result()
        with pytest.raises(agentkd.TrainingError, match="spp"):
            ours.feature_maps(views, taps=["spp"]).result(timeout=60)
        assert ours.assess(data) == competence, "one mistake, made twice, does not end the community"
        unfinished = community.agent("patient", "unet", **NETWORK).train(SPEC, epochs=1000, views=VIEWS)
    with pytest.raises(ChannelClosedError, match="before this was done"):
        unfinished.result(timeout=1)

    with agentkd.Community(devices="cpu:1", record=tmp_path / "run") as community:
        ours = community.agent("ours", "unet", weights=tmp_path / "ours.safetensors", **NETWORK)
        plain = community.agent("plain", "unet", weights=plain.weights, num_classes=5, **NETWORK)
        both = community.agent("both", "unet", **NETWORK)
        ours.train(SPEC, epochs=1, views=VIEWS).result()
        plain.train(SPEC, epochs=1, views=VIEWS).result()
        mean = tensors.decode(community.artifact(both.average([ours, plain], shares=[1, 3]).result().weights))
        first, second = (tensors.decode(community.artifact(agent.weights)) for agent in (ours, plain))
        for name, value in mean.items():
            expected = 0.25 * first[name] + 0.75 * second[name] if value.is_floating_point() else first[name]
            assert torch.allclose(value, expected, atol=1e-6), name
        ranked = community.who_knows(data)
        assert [agent.name for agent, _ in ranked][-1] == "both", "what was never validated ranks last"
        assert all(competence.known_fraction is not None for _, competence in ranked)


def test_a_recorded_lesson_is_told_again_without_a_teacher_also_in_a_later_session(tmp_path: Path) -> None:
    objectives = [agentkd.SoftTargets(temperature=3), agentkd.Features({"encoder.1": "encoder.1"})]

    def session(name: str, *, epochs: int, **launch: object) -> tuple[agentkd.Community, TaskResult]:
        with agentkd.Community(devices="cpu:2", record=tmp_path / "run", **launch) as community:
            teacher = community.agent("teacher", "unet", **NETWORK)
            teacher.train(SPEC, epochs=1, views=VIEWS).result()
            student = community.agent(name, "unet", base=16, depth=2)
            return community, student.distill(teacher, SPEC, objectives, epochs=epochs, views=VIEWS).result()

    community, first = session("first", epochs=2, record_lessons=True)
    assert first.exchange and first.exchange.record and first.exchange.recorded == 0
    assert community.recordings.num_lessons == 1 and community.recordings.num_pieces == first.exchange.requests
    community, second = session("second", epochs=2)
    assert second.exchange and second.exchange.recorded == first.exchange.requests
    assert second.exchange.requests == second.exchange.bytes_received == 0, "nobody was asked"
    assert community.recordings.pays and community.recordings.num_served == second.exchange.recorded
    with Journal(tmp_path / "run" / "journal.sqlite", read_only=True) as journal:
        assert [len(record.teachers) for record in journal.records()].count(1) == 1, "the second lesson had no teacher"
    _, longer = session("longer", epochs=3)
    assert longer.exchange and longer.exchange.recorded == first.exchange.requests
    assert 0 < longer.exchange.requests < longer.exchange.recorded, "what is not recorded is asked"

    lessons = [agentkd.Community(devices="cpu:2", record=tmp_path / place) for place in ("live", "run")]
    weights = []
    for place in lessons:
        with place as community:
            file = tmp_path / "teacher.safetensors"
            file.write_bytes(Store(tmp_path / "run" / "artifacts").get(_teacher_of(tmp_path / "run")))
            teacher = community.agent("teacher", "unet", weights=file, **NETWORK)
            student = community.agent("equal", "unet", base=16, depth=2)
            weights.append(student.distill(teacher, SPEC, objectives, epochs=2, views=VIEWS).result())
    live, told_again = weights
    assert live.weights == told_again.weights, "told again is told the same"
    assert live.exchange and told_again.exchange and (live.exchange.recorded, told_again.exchange.requests) == (0, 0)


def _teacher_of(run: Path) -> str:
    with Journal(run / "journal.sqlite", read_only=True) as journal:
        return next(record.teachers[0][0] for record in journal.records() if record.teachers)


def test_copies_of_a_teacher_share_the_work_and_change_no_weights(tmp_path: Path) -> None:
    learned, served = [], []
    for copies in (1, 2):
        place = tmp_path / str(copies)
        with agentkd.Community(devices="cpu:2", record=place, teacher_copies=copies) as community:
            teacher = community.agent("teacher", "unet", **NETWORK)
            teacher.train(SPEC, epochs=1, views=VIEWS).result()
            students = [community.agent(name, "unet", **NETWORK) for name in ("ann", "bob")]
            lessons = [student.distill(teacher, SPEC, epochs=10, views=VIEWS) for student in students]
            learned.append([lesson.result().weights for lesson in lessons])
            assert lessons[0].teacher_miou() == [teacher.miou]
        logs = [path.read_text(encoding="utf-8") for path in (place / "logs").glob("*.audit.jsonl")]
        served.append(sum('"soft_targets"' in log for log in logs))
    assert learned[0] == learned[1] and served == [1, 2]


def test_a_community_of_one_process_gives_a_script_the_bits_that_agents_give_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, two teachers with features and codecs, mutual teaching, protection: every weight has the same digest."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    recipe = {"epochs": 2, "batch_size": 4, "learning_rate": 0.05, "views": agentkd.ViewSettings(crop_height=32, crop_width=32)}

    def script(kind: type[agentkd.Community], record: Path) -> list[str]:
        with kind(devices="cpu:2", record=record) as community:
            a, b, c = (community.agent(name, f"tiny_networks:{name[:-1]}") for name in ("tiny1", "other2", "tiny3"))
            found = [agent.train(SPEC, **recipe) for agent in (a, b)]
            objectives = [agentkd.SoftTargets(), agentkd.Features({"body": "body"}, weight=1)]
            found.append(c.distill([a, b], SPEC, objectives, shares=[1, 2], codec="int8", alpha=0.3, **recipe))
            found += agentkd.mutual(b, c, data=SPEC, **recipe | {"keep": "last"})
            c.consolidate()
            found.append(c.train(SPEC, protect=10.0, **recipe | {"keep": "last"}))
            found.append(a.average([a, c]))
            return [lesson.result(timeout=120).weights for lesson in found]

    here, there = script(agentkd.testing.Community, tmp_path / "here"), script(agentkd.Community, tmp_path / "there")
    assert here == there and len(set(here)) == len(here)

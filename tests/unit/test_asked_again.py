"""A network that is asked for again is the same one, and a digest's first characters are enough."""

from pathlib import Path

import pytest

import agentkd
from agentkd.errors import ArtifactError, ConfigError, DatasetError
from agentkd.knowledge.weights import encode_weights
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.testing import Community

DATA = "generated:seed=5,size=32x32,train=4,validation=2,test=2"
SMALL = {"base": 8, "depth": 1}


def test_a_network_that_is_asked_for_again_is_the_one_that_is_there(tmp_path: Path) -> None:
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        first = community.agent("a", "unet", **SMALL)
        assert community.agent("a", "unet", **SMALL) is first
        first.train(DATA, epochs=1, batch_size=2).result()
        assert community.agent("a", "unet", **SMALL) is first and first.weights
        assert community.agent("a", "unet", num_classes=first.num_classes, depth=1, base=8, norm="batch") is first
        for wrong, said in (
            ({"family": "pidnet_s"}, "family 'unet', not 'pidnet_s'"),
            ({"base": 16}, "base 8, not 16"),
            ({"num_classes": 9}, f"num_classes {first.num_classes}, not 9"),
            ({"weights": first.weights}, f"weights 'none', not '{first.weights[:12]}'"),
        ):
            asked = {"family": "unet", **SMALL} | wrong
            if asked["family"] != "unet":
                asked = {"family": asked["family"]}
            with pytest.raises(ConfigError, match=f"there is a network 'a' .*{said}.*another name"):
                community.agent("a", **asked)
        assert community.agent("a", "unet", **SMALL) is first
        assert repr(community) == f"<Community in {tmp_path / 'run'}: open, networks: a>"


def test_the_first_characters_of_a_digest_are_enough_wherever_one_is_asked_for(tmp_path: Path) -> None:
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        first = community.agent("a", "unet", **SMALL)
        lesson = first.train(DATA, epochs=1, batch_size=2)
        digest = lesson.result().weights
        second = community.agent("b", "unet", weights=digest[:9], **SMALL)
        assert (second.weights, second.classes) == (digest, first.classes)
        assert community.agent("b", "unet", weights=digest[:7], **SMALL) is second
        third = community.agent("c", "unet", **SMALL)
        third.start_from(digest[:8])
        assert third.weights == digest and community.artifact(digest[:8]) == community.artifact(digest)
        shared = first.share_data(DATA).result()
        packed = shared.spec.partition(":")[2]
        assert community.shared_data(packed[:10]).digest == shared.digest
        for absent in ("0" * 9, "f" * 64):
            with pytest.raises((ConfigError, ArtifactError), match=absent[:9]):
                community.artifact(absent)
        with pytest.raises(DatasetError):
            community.shared_data("f" * 64)
        with pytest.raises(ConfigError, match="at least 4 characters"):
            community.artifact("abc")
        for weights, said in (("c67", "at least 4 characters"), ("absent.pth", "no weights file absent.pth")):
            with pytest.raises(ConfigError, match=said):
                community.agent("y", "unet", weights=weights)


def test_a_file_that_is_called_like_a_digest_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    architecture = resolve("unet", 3, SMALL)
    Path("beef1234").write_bytes(encode_weights(architecture, dict(build(architecture, seed=1).state_dict()), ("a", "b", "c")))
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        network = community.agent("a", "unet", weights="beef1234", **SMALL)
        assert network.classes == ("a", "b", "c") and network.num_classes == 3
        assert community.agent("a", "unet", weights=Path("beef1234"), **SMALL) is network
        with pytest.raises(ConfigError, match="nothing here begins with 'beef4321'"):
            community.agent("b", "unet", weights="beef4321", **SMALL)
    assert agentkd.load_network("beef1234").classes == ("a", "b", "c")


def test_a_network_with_heads_is_asked_for_again_by_the_same_ones(tmp_path: Path) -> None:
    with Community(devices="cpu:1", record=tmp_path / "run") as community:
        several = community.agent("a", "unet", heads={"fire": 5, "roads": 2}, **SMALL)
        assert community.agent("a", "unet", heads={"roads": 2, "fire": 5}, **SMALL) is several
        assert community.agent("a", "unet", **SMALL) is several
        with pytest.raises(ConfigError, match=r"heads .*'roads': 2.*, not .*'roads': 3"):
            community.agent("a", "unet", heads={"fire": 5, "roads": 3}, **SMALL)
        one = community.agent("b", "unet", num_classes=5, **SMALL)
        with pytest.raises(ConfigError, match=r"heads 'none', not .*fire"):
            community.agent("b", "unet", heads={"fire": 5}, **SMALL)
        assert several.head("fire").num_classes == 5 and several.head("roads").num_classes == 2 and one.num_classes == 5
        lesson = several.head("fire").train(DATA, epochs=1, batch_size=2)
        assert "lesson" not in repr(several.head("roads")) and "has learned nothing" in repr(several.head("roads"))
        assert lesson.label in repr(several) and lesson.label in repr(several.head("fire"))
        lesson.result()

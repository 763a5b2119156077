"""What students of a mutual lesson said lies in files that name their digest."""

from pathlib import Path

import pytest

from agentkd.agents.saying import keep_said, read_said, was_said
from agentkd.errors import ArtifactCorruptError


def test_what_was_said_is_read_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "3.safetensors"
    assert not was_said(place)
    keep_said(place, b"words\nand more")
    assert was_said(place) and read_said(place) == b"words\nand more"
    assert [path.name for path in tmp_path.iterdir()] == ["3.safetensors"]


@pytest.mark.parametrize("at", [0, 70, -1])
def test_what_is_damaged_was_not_said(tmp_path: Path, at: int) -> None:
    place = tmp_path / "3.safetensors"
    keep_said(place, b"words\nand more")
    data = bytearray(place.read_bytes())
    data[at] ^= 1
    place.write_bytes(data)
    with pytest.raises(ArtifactCorruptError):
        read_said(place)
    place.write_bytes(data)
    assert not was_said(place) and not place.exists()


def test_of_what_cannot_be_written_nothing_is_left(tmp_path: Path) -> None:
    place = tmp_path / "3.safetensors"
    place.mkdir()
    with pytest.raises(OSError, match="directory"):
        keep_said(place, b"words")
    assert [path.name for path in tmp_path.iterdir()] == ["3.safetensors"]


def test_what_lies_in_the_place_of_another_step_or_student_was_not_said(tmp_path: Path) -> None:
    places = [tmp_path / student / f"{step}.safetensors" for student, step in (("a.said", 3), ("a.said", 4), ("b.said", 3))]
    for place in places:
        place.parent.mkdir(exist_ok=True)
        keep_said(place, str(place).encode())
    for other in places[1:]:
        places[0].write_bytes(other.read_bytes())
        assert not was_said(places[0])
    assert all(was_said(other) for other in places[1:])

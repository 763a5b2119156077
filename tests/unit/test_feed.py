"""The feed of a run: what is written can be read, in whatever pieces; what cannot be written ends nothing."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkd.artifacts import feed
from agentkd.artifacts.feed import Agent, Began, FeedReader, FeedWriter, Over, Planned, Progress, Said, Started
from agentkd.names import AgentName, TaskKey

KEY = TaskKey("ab" * 32)
BEGAN = Began(at="2026-01-02T03:04:05Z", clock=5.0, host="here", pid=7)


class Heard(list[str]):
    """What was told."""


def writer(place: Path, told: Heard | None = None, restated: tuple[feed.Line, ...] = ()) -> FeedWriter:
    said = told if told is not None else Heard()
    return FeedWriter(
        place / "feed.jsonl",
        place / "feed-before.jsonl",
        lambda is_continued: [BEGAN.model_copy(update={"is_continued": is_continued}), *(restated if is_continued else ())],
        said.append,
    )


def reader(place: Path) -> FeedReader:
    return FeedReader(place / "feed.jsonl", place / "feed-before.jsonl")


def test_what_is_written_is_read_once_and_as_it_was(tmp_path: Path) -> None:
    told, read = writer(tmp_path), reader(tmp_path)
    lines = [
        Agent(t=1.0, agent=AgentName("a"), role="learning", condition="busy", pid=3, task=KEY),
        Started(t=1.5, task=KEY, agent=AgentName("a"), attempt=1, label="x", kind="train", family="unet", epochs=2),
        Progress(t=2.0, task=KEY, step=1, steps=4, loss=0.5, score=0.25, received_bytes=9, waited_s=0.5),
        Planned(t=3.0, num_recorded=1, num_expected=4, left_s=2.5),
        Over(t=4.0),
    ]
    for line in lines:
        told.add(line)
    assert read.read() == []
    told.flush()
    assert read.read() == [BEGAN, *lines]
    assert read.read() == []
    told.add(Said(text="more"))
    told.close()
    assert read.read() == [Said(text="more")]


def test_a_feed_that_is_long_is_begun_anew_with_how_things_stand_and_takes_no_more_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_BYTES", 2000)
    state = Agent(agent=AgentName("a"), role="learning", condition="idle")
    told, read = writer(tmp_path, restated=(state,)), reader(tmp_path)
    seen = []
    for number in range(100):
        told.add(Said(t=float(number), text="something happened"))
        told.flush()
        seen += read.read()
    told.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4000
    assert [line.t for line in seen if isinstance(line, Said)] == [float(number) for number in range(100)]
    begun = [index for index, line in enumerate(seen) if isinstance(line, Began)]
    assert len(begun) > 2 and all(seen[index + 1] == state for index in begun[1:])
    late = reader(tmp_path).read()
    assert isinstance(late[0], Began) and isinstance(late[-1], Said) and late[-1].t == 99.0


def test_the_feed_of_the_sitting_before_is_kept_and_read_first(tmp_path: Path) -> None:
    for text in ("first", "second", "third"):
        told = writer(tmp_path)
        told.add(Said(text=text))
        told.close()
    assert reader(tmp_path).read() == [BEGAN, Said(text="second"), BEGAN, Said(text="third")]


def test_a_reader_sees_a_sitting_that_begins_while_it_reads(tmp_path: Path) -> None:
    read = reader(tmp_path)
    assert read.read() == []
    for text in ("first", "second"):
        told = writer(tmp_path)
        told.add(Said(text=text))
        told.close()
        assert read.read() == [BEGAN, Said(text=text)]


@given(cuts=st.lists(st.integers(1, 40), max_size=30))
def test_lines_that_arrive_in_pieces_are_read_whole(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    place = tmp_path_factory.mktemp("pieces")
    told = writer(place)
    told.add(Said(text="émigré"))
    told.add(Said(text="b"))
    told.close()
    whole = (place / "feed.jsonl").read_bytes()
    (place / "feed.jsonl").write_bytes(b"")
    read, seen = reader(place), []
    seen += read.read()
    for size in [*cuts, len(whole)]:
        piece, whole = whole[:size], whole[size:]
        with (place / "feed.jsonl").open("ab") as file:
            file.write(piece)
        seen += read.read()
    assert seen == [BEGAN, Said(text="émigré"), Said(text="b")]


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b"nothing",
        b'{"what":"later"}',
        b'{"what":"said","text":7}',
        b"\xff\xfe",
        b"9" * 20_000,
        b'{"t":-1,"what":"over"}',
    ],
)
def test_what_is_no_line_of_a_feed_is_passed_over(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "feed.jsonl").write_bytes(line + b'\n{"what":"said","text":"after"}\n')
    assert reader(tmp_path).read() == [Said(text="after")]


def test_a_link_or_a_pipe_is_neither_read_nor_written(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text('{"what":"said","text":"secret"}\n')
    for lay in (lambda path: path.symlink_to(mine), os.mkfifo):
        place = tmp_path / lay.__name__.strip("<>")
        place.mkdir()
        lay(place / "feed.jsonl")
        lay(place / "feed-before.jsonl")
        assert reader(place).read() == []
        heard = Heard()
        told = writer(place, heard)
        told.add(Said(text="x"))
        told.flush()
        assert len(heard) == 1 and mine.read_text().count("\n") == 1


def test_what_cannot_be_written_is_told_once_and_given_up(tmp_path: Path) -> None:
    heard = Heard()
    told = writer(tmp_path / "nowhere", heard)
    for _ in range(3):
        told.add(Said(text="x"))
        told.flush()
    told.close()
    assert len(heard) == 1 and "cannot be written" in heard[0] and "the run goes on" in heard[0]


def test_a_full_disk_in_the_middle_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    told = writer(tmp_path, heard)
    told.add(Said(text="x"))
    told.flush()

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    told.add(Said(text="y"))
    told.flush()
    monkeypatch.undo()
    told.add(Said(text="z"))
    told.close()
    assert len(heard) == 1 and "No space left" in heard[0]
    assert reader(tmp_path).read() == [BEGAN, Said(text="x")]

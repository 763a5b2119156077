"""Decoded samples are kept within a cap, shared by whoever opens the same data, and decoded anew whenever anything is wrong."""

import os
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from agentkd.agents.feeding import DatasetFeed
from agentkd.architecture import Architecture
from agentkd.datasets import caching, order
from agentkd.datasets.caching import HEADER, OwnMemory, SharedSamples
from agentkd.datasets.opening import Opened, open_dataset
from agentkd.datasets.samples import Sample
from agentkd.names import Digest
from agentkd.task import DataSource, Train

DATA, OTHER = Digest("d" * 64), Digest("e" * 64)
PIXELS = 6 * 5
SAMPLE_BYTES = 4 * PIXELS
FILE_BYTES = SAMPLE_BYTES + HEADER.size + 1
SPEC = "generated:seed=1,size=32x32,train=4,validation=2,test=2"


class Reader:
    """Makes samples, and counts how often."""

    def __init__(self) -> None:
        self.asked: Counter[int] = Counter()

    def __call__(self, index: int) -> Sample:
        self.asked[index] += 1
        image = np.arange(3 * PIXELS, dtype=np.uint8).reshape(6, 5, 3) + np.uint8(index)
        return Sample(image=image, label=image[..., 0].copy(), name=str(index))


@pytest.fixture
def read() -> Reader:
    return Reader()


def are_equal(one: Sample, other: Sample) -> bool:
    return one.name == other.name and np.array_equal(one.image, other.image) and np.array_equal(one.label, other.label)


def test_a_process_keeps_those_asked_for_last_within_its_bytes(read: Reader) -> None:
    memory = OwnMemory(max_bytes=2 * SAMPLE_BYTES)
    for index in (1, 2, 1, 3, 1, 2):
        assert are_equal(memory.sample(index, read), Reader()(index))
    assert read.asked == {1: 1, 2: 2, 3: 1}


def test_what_is_larger_than_its_memory_is_not_kept_and_takes_no_room(read: Reader) -> None:
    memory = OwnMemory(max_bytes=SAMPLE_BYTES - 1)
    for _ in range(3):
        memory.sample(1, read)
    assert read.asked[1] == 3 and memory._num_bytes == 0


def test_whoever_shares_a_folder_decodes_once(tmp_path: Path, read: Reader) -> None:
    one, other = (SharedSamples(tmp_path / "cache", max_bytes=10**6) for _ in range(2))
    first = one.sample(DATA, 7, read)
    assert are_equal(other.sample(DATA, 7, read), first) and read.asked[7] == 1
    assert are_equal(other.sample(OTHER, 7, read), first) and read.asked[7] == 2, "other data have other samples"
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_when_it_is_full_what_is_kept_stays_and_the_rest_is_decoded_each_time(tmp_path: Path, read: Reader) -> None:
    shared = SharedSamples(tmp_path / "cache", max_bytes=2 * FILE_BYTES)
    for _ in range(3):
        for index in range(4):
            shared.sample(DATA, index, read)
    assert read.asked == {0: 1, 1: 1, 2: 3, 3: 3}
    assert sum(file.stat().st_size for file in (tmp_path / "cache" / DATA).iterdir()) <= 2 * FILE_BYTES


def test_data_that_nobody_has_used_for_long_make_room(tmp_path: Path, read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedSamples(tmp_path / "cache", max_bytes=2 * FILE_BYTES)
    for index in (0, 1):
        shared.sample(OTHER, index, read)
    shared.sample(DATA, 0, read)
    assert not (tmp_path / "cache" / DATA).exists(), "they were used just now"
    long_ago = (tmp_path / "cache" / OTHER).stat().st_mtime - caching.UNUSED_S - 1
    os.utime(tmp_path / "cache" / OTHER, (long_ago, long_ago))
    for index in (0, 1, 2):
        shared.sample(DATA, index, read)
    assert not (tmp_path / "cache" / OTHER).exists()
    assert {file.name for file in (tmp_path / "cache" / DATA).iterdir()} == {"0", "1"}


def test_data_that_are_read_are_in_use(tmp_path: Path, read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedSamples(tmp_path / "cache", max_bytes=10**6)
    shared.sample(DATA, 0, read)
    os.utime(tmp_path / "cache" / DATA, (0, 0))
    shared.sample(DATA, 0, read)
    assert (tmp_path / "cache" / DATA).stat().st_mtime > 0


def test_what_just_fits_drops_nothing_and_what_is_dropped_is_counted_to_the_byte(tmp_path: Path, read: Reader) -> None:
    place = tmp_path / "not there yet" / "cache"
    shared = SharedSamples(place, max_bytes=2 * FILE_BYTES)
    shared.sample(OTHER, 0, read)
    os.utime(place / OTHER, (0, 0))
    shared.sample(DATA, 0, read)
    assert (place / OTHER).exists(), "there was room for both"
    shared.sample(DATA, 1, read)
    assert not (place / OTHER).exists()
    files = [file for file in place.rglob("*") if file.is_file() and file.name != "used"]
    assert int((place / "used").read_text()) == sum(file.stat().st_size for file in files) == 2 * FILE_BYTES


def test_that_data_are_in_use_is_noted_once_a_minute(tmp_path: Path, read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedSamples(tmp_path / "cache", max_bytes=10**6)
    now, noted = [1000.0], []
    monkeypatch.setattr(caching, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(caching.os, "utime", lambda path: noted.append(now[0]))
    shared.sample(DATA, 0, read)
    for now[0] in (1000.0, 1030.0, 1060.0, 1061.0, 1090.0, 1122.0):
        shared.sample(DATA, 0, read)
    assert noted == [1000.0, 1061.0, 1122.0]


def test_a_folder_that_cannot_be_had_is_tried_once(tmp_path: Path, read: Reader, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file")
    shared = SharedSamples(tmp_path / "cache", max_bytes=10**6)
    assert are_equal(shared.sample(DATA, 0, read), Reader()(0))
    (tmp_path / "cache").unlink()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)  # whoever made it, nobody looked at it
    assert are_equal(shared.sample(DATA, 0, read), Reader()(0))
    assert read.asked[0] == 2 and not [*(tmp_path / "cache").iterdir()]
    assert len([record for record in caplog.records if "decoded images are not kept" in record.message]) == 1


@pytest.mark.parametrize("damage", [b"", b"agentkd1", b"x" * FILE_BYTES, None])
def test_a_file_that_is_not_whole_is_passed_over(tmp_path: Path, read: Reader, damage: bytes | None) -> None:
    shared = SharedSamples(tmp_path / "cache", max_bytes=10**6)
    expected = shared.sample(DATA, 3, read)
    file = tmp_path / "cache" / DATA / "3"
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    assert are_equal(shared.sample(DATA, 3, read), expected) and read.asked[3] == 2
    assert are_equal(shared.sample(DATA, 3, read), expected) and read.asked[3] == 2, "and is written again"


def open_to_all(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)


def elsewhere(place: Path) -> None:
    place.with_name("elsewhere").mkdir(mode=0o700)
    place.symlink_to(place.with_name("elsewhere"))


@pytest.mark.parametrize("at", [0, 9, 13, 30, HEADER.size, HEADER.size + 1, -1])
def test_a_file_with_another_bit_is_passed_over(tmp_path: Path, read: Reader, at: int) -> None:
    shared = SharedSamples(tmp_path / "cache", max_bytes=10**6)
    first, file = shared.sample(DATA, 7, read), tmp_path / "cache" / DATA / "7"
    data = bytearray(file.read_bytes())
    data[at] ^= 16
    file.write_bytes(data)
    assert are_equal(shared.sample(DATA, 7, read), first) and read.asked[7] == 2
    assert are_equal(shared.sample(DATA, 7, read), first) and read.asked[7] == 2, "it is kept anew"


def test_a_file_in_the_place_of_another_is_passed_over(tmp_path: Path, read: Reader) -> None:
    shared = SharedSamples(tmp_path / "cache", max_bytes=10**6)
    for data, index in ((DATA, 7), (DATA, 8), (OTHER, 7)):
        shared.sample(data, index, read)
    for data, index in ((DATA, 8), (OTHER, 7)):
        (tmp_path / "cache" / DATA / "7").write_bytes((tmp_path / "cache" / data / str(index)).read_bytes())
        assert are_equal(shared.sample(DATA, 7, read), Reader()(7))


def test_counts_with_another_bit_or_of_other_data_are_counted_anew(tmp_path: Path) -> None:
    shared, counted = SharedSamples(tmp_path / "cache", max_bytes=10**6), []

    def count() -> np.ndarray:
        counted.append(1)
        return np.arange(6).reshape(2, 3)

    for data in (DATA, OTHER, DATA):
        assert shared.counts(data, "train", 2, count).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert len(counted) == 2
    file = tmp_path / "cache" / DATA / "train.counts"
    sound = file.read_bytes()
    for at in (0, 9, 12, len(sound) - 1):
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        assert shared.counts(DATA, "train", 2, count).tolist() == [[0, 1, 2], [3, 4, 5]]
    file.write_bytes((tmp_path / "cache" / OTHER / "train.counts").read_bytes())
    shared.counts(DATA, "train", 2, count)
    assert len(counted) == 7


@pytest.mark.parametrize("make", [open_to_all, elsewhere, lambda place: place.write_text("no folder")])
def test_where_others_could_write_nothing_is_kept_nor_read(tmp_path: Path, read: Reader, make: object) -> None:
    assert callable(make)
    make(tmp_path / "cache")
    shared = SharedSamples(tmp_path / "cache", max_bytes=10**6)
    for _ in range(2):
        assert are_equal(shared.sample(DATA, 1, read), Reader()(1))
    assert read.asked[1] == 2 and not list(tmp_path.rglob(DATA))


def test_a_disk_that_is_full_is_nobodys_trouble(tmp_path: Path, read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    shared = SharedSamples(tmp_path / "cache", max_bytes=10**6)
    assert are_equal(shared.sample(DATA, 1, read), Reader()(1))
    assert list((tmp_path / "cache" / DATA).iterdir()) == [], "nor is a part left"


def test_the_last_of_a_disk_is_left_to_the_work(tmp_path: Path, read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    free = caching.SPARE_BYTES + FILE_BYTES
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    shared = SharedSamples(tmp_path / "cache", max_bytes=10**6)
    shared.sample(DATA, 1, read)
    free -= 1
    shared.sample(DATA, 2, read)
    assert [file.name for file in (tmp_path / "cache" / DATA).iterdir()] == ["1"]


def test_a_sample_that_is_no_bytes_is_not_kept(tmp_path: Path) -> None:
    wide = Sample(image=np.zeros((4, 4, 3), dtype=np.float32), label=np.zeros((4, 4), dtype=np.int64), name="wide")
    shared = SharedSamples(tmp_path / "cache", max_bytes=10**6)
    assert shared.sample(DATA, 0, lambda index: wide) is wide and not (tmp_path / "cache" / DATA).exists()


def test_many_threads_keep_no_more_than_there_may_be(tmp_path: Path, read: Reader) -> None:
    agents = [SharedSamples(tmp_path / "cache", max_bytes=10 * FILE_BYTES) for _ in range(4)]
    threads = [threading.Thread(target=lambda one=one: [one.sample(DATA, i, read) for i in range(10, 40)]) for one in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = list((tmp_path / "cache" / DATA).iterdir())
    assert 0 < len(kept) <= 10 and not [file for file in kept if file.suffix == ".part"]


def test_opened_data_share_what_they_decode_with_equal_data_alone(tmp_path: Path) -> None:
    shared = SharedSamples(tmp_path / "cache", max_bytes=10**6)
    for spec in (SPEC, SPEC, SPEC.replace("seed=1", "seed=2"), f"few:2:{SPEC}"):
        opened = open_dataset(spec)
        opened.share_samples(shared)
        index = opened.splits["train"][0]
        assert are_equal(opened.sample(index), open_dataset(spec).sample(index))
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 3


def test_an_own_dataset_is_asked_each_time(tmp_path: Path, read: Reader) -> None:
    class Own:
        digest, splits = "f" * 64, {"train": (1,)}

        def sample(self, index: int) -> Sample:
            return read(index)

    opened = Opened("mine:data", Own(), Digest("c" * 64))  # type: ignore[arg-type]
    opened.share_samples(SharedSamples(tmp_path / "cache", max_bytes=10**6))
    for _ in range(2):
        opened.sample(1)
    assert read.asked[1] == 2 and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("pixels", "sizes"), [(2**22, [2]), (32 * 32 * 2, [2]), (32 * 32, [1, 1]), (1, [1, 1])])
def test_of_large_images_few_are_validated_at_once(monkeypatch: pytest.MonkeyPatch, pixels: int, sizes: list[int]) -> None:
    monkeypatch.setattr(order, "WHOLE_PIXELS", pixels)
    data = open_dataset(SPEC)
    source = DataSource(spec=SPEC, content_digest=data.digest)
    feed = DatasetFeed(Train(architecture=Architecture(family="unet", num_classes=5), data=source))
    assert [len(batch.images) for batch in feed.validation_batches()] == sizes

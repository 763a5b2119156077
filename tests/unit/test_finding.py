"""Files are found by patterns whose parts have names; each is used once, or left over and named."""

import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from agentkd.datasets import finding
from agentkd.datasets.description import Description, Layout
from agentkd.datasets.finding import Pairing, find_pairs
from agentkd.datasets.listing import list_files
from agentkd.datasets.patterns import Parts, Pattern
from agentkd.errors import DatasetError


def lay(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def find(
    root: Path, images: object = "images/{split}/{stem}.*", masks: object = "masks/{split}/{stem}.*", **keys: object
) -> Pairing:
    layout = Layout.model_validate({"images": images, "masks": masks})
    return find_pairs(root, Description.model_validate({"name": "t", "classes": ["a", "b"], "layout": layout, **keys}))


def pairs(found: Pairing) -> list[tuple[str, str]]:
    return [(pair.image, pair.mask) for pair in found.pairs]


STRANGE = [
    "scene [1]",
    "[!a]",
    "a{b}",
    "a,b",
    "a b",
    "a.0001",
    "a",
    "a.",
    "*",
    "?",
    "x~",
    "c#1",
    "d%20e",
    "f'g",
    'q"r',
    "Füße",
    "火災",
    "$HOME",
    "a\\b",
    "a\nb",
    "^a$",
    "(a|b)+",
    "-rf",
    "=1",
    "a;b",
    "{stem}",
    "x" * 200,
]


def test_every_legal_name_is_a_name(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{kind}/train/{stem}.png" for stem in STRANGE for kind in ("images", "masks")))
    found = find(tmp_path)
    assert sorted(pair.stem for pair in found.pairs) == sorted(STRANGE) and not found.left_over
    assert all(pair.image == pair.mask.replace("masks", "images") for pair in found.pairs)


def test_names_that_are_no_text_are_names_too(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind / "train").mkdir(parents=True)
        (Path(os.fsdecode(os.fsencode(tmp_path / kind / "train") + b"/caf\xe9.png"))).write_bytes(b"x")
    (pair,) = find(tmp_path).pairs
    assert os.fsencode(pair.stem) == b"caf\xe9"


def test_folders_may_have_any_name_too(tmp_path: Path) -> None:
    root = tmp_path / "data [v2] {x}, *"
    lay(root, "in [1]/train/a.png", "masks/train/a.png")
    assert pairs(find(root, "in [1]/{split}/{stem}.png")) == [("in [1]/train/a.png", "masks/train/a.png")]
    lay(root, "{b}/train/a.png")
    assert len(find(root, "{{b}}/{split}/{stem}.png").pairs) == 1


@pytest.mark.parametrize(
    ("images", "masks", "files"),
    [
        ("{stem}_img.png", "{stem}_mask.png", [("a_img.png", "a_mask.png"), ("b_img.png", "b_mask.png")]),
        ("image_{stem}.png", "label_{stem}.png", [("image_1.png", "label_1.png"), ("image_10.png", "label_10.png")]),
        ("{stem}.jpg", "{stem}.png", [("a.jpg", "a.png"), ("a.b.jpg", "a.b.png")]),
        ("{stem}.*", "{stem}_mask.*", [("a.JPEG", "a_mask.PNG"), ("a_b.tif", "a_b_mask.gif")]),
        ("{stem}.jpg", "{stem}.*", [("a.jpg", "a.png"), ("b.JPG", "b.bmp")]),
        ("x/{stem}.{jpg,jpeg}", "y/{stem}.png", [("x/a.jpeg", "y/a.png"), ("x/b.JPG", "y/b.PNG")]),
        (["x/{stem}.jpg", "x/{stem}.png"], "y/{stem}.png", [("x/a.jpg", "y/a.png"), ("x/b.png", "y/b.png")]),
        ("{stem}/rgb.png", "{stem}/seg.png", [("s1/rgb.png", "s1/seg.png"), ("s2/rgb.png", "s2/seg.png")]),
        ("*/rgb/{stem}.png", "*/seg/{stem}.png", [("s1/rgb/0.png", "s1/seg/0.png"), ("s2/rgb/0.png", "s2/seg/0.png")]),
        ("**/{stem}.jpg", "**/{stem}.png", [("a.jpg", "a.png"), ("x/y/a.jpg", "x/y/a.png"), ("x/a.jpg", "x/a.png")]),
        ("img/{stem}.png", "ann/*/{stem}.png", [("img/a.png", "ann/p/a.png"), ("img/b.png", "ann/q/b.png")]),
        ("{stem}/{stem}_i.png", "{stem}/{stem}_m.png", [("a/a_i.png", "a/a_m.png"), ("b/b_i.png", "b/b_m.png")]),
        ("cam*/{stem}_*.png", "seg*/{stem}_*.png", [("cam1/a_x.png", "seg1/a_x.png"), ("cam2/a_x.png", "seg2/a_x.png")]),
        ("./x/{stem}.png", "y/{stem}.png", [("x/a.png", "y/a.png")]),
    ],
)
def test_each_image_has_its_own_mask(tmp_path: Path, images: object, masks: str, files: list[tuple[str, str]]) -> None:
    lay(tmp_path, *(name for pair in files for name in pair))
    found = find(tmp_path, images, masks)
    assert sorted(pairs(found)) == sorted(files) and not found.left_over
    assert {pair.split for pair in found.pairs} == {"train"}


def test_what_a_star_matched_belongs_to_the_name_and_the_group(tmp_path: Path) -> None:
    names = [f"train/seq{s}/{kind}/0_{f}.png" for s in (1, 2) for f in (1, 2) for kind in ("Images", "Labels")]
    lay(tmp_path, *names)
    found = find(tmp_path, "{split}/*/Images/{stem}.png", "{split}/*/Labels/{stem}.png")
    assert [pair.name for pair in found.pairs] == ["seq1/0_1", "seq1/0_2", "seq2/0_1", "seq2/0_2"]
    assert all(pair.image.split("/")[1] == pair.mask.split("/")[1] for pair in found.pairs)


def test_one_system_composes_letters_and_another_does_not(tmp_path: Path) -> None:
    lay(
        tmp_path,
        f"images/train/{unicodedata.normalize('NFD', 'Füße')}.png",
        f"masks/train/{unicodedata.normalize('NFC', 'Füße')}.png",
    )
    assert len(find(tmp_path).pairs) == 1
    stem = unicodedata.normalize("NFD", "Füße")
    assert len(find(tmp_path, splits={"train": [stem]}).pairs) == 1


TWO = {
    "images by their endings": (
        ["images/train/a.png", "images/train/a.jpg", "masks/train/a.png"],
        "a.jpg: and .*a.png are both images of one name",
    ),
    "images by the case of theirs": (
        ["images/train/a.png", "images/train/a.PNG", "masks/train/a.png"],
        "a.PNG: and .*a.png are both",
    ),
    "masks by their endings": (
        ["images/train/a.png", "masks/train/a.png", "masks/train/a.gif"],
        "a.gif: and .*a.png are both masks of images/train/a.png",
    ),
}


@pytest.mark.parametrize("name", TWO)
def test_two_candidates_are_an_error_that_names_both(tmp_path: Path, name: str) -> None:
    files, told = TWO[name]
    lay(tmp_path, *files)
    with pytest.raises(DatasetError, match=told):
        find(tmp_path)


def test_a_mask_is_not_shared_by_images_of_several_folders(tmp_path: Path) -> None:
    lay(tmp_path, "img/p/a.png", "img/q/a.png", "ann/a.png")
    with pytest.raises(DatasetError, match=r"ann/a.png: would be the mask of img/p/a.png and of img/q/a.png"):
        find(tmp_path, "img/*/{stem}.png", "ann/{stem}.png")


def test_patterns_that_do_not_tell_images_from_masks_are_refused(tmp_path: Path) -> None:
    lay(tmp_path, "a.png")
    with pytest.raises(DatasetError, match=r"a.png: is an image and a mask, by layout.images and layout.masks"):
        find(tmp_path, "{stem}.png", "{stem}.png")


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ("images/{name}.png", r"layout.images: pattern .* has the unknown part '\{name\}'; expected \{split\}, \{stem\}"),
        ("images/{split}/x.png", r"layout.images: has no \{stem\}"),
        ("images/{stem.png", "unknown part '{'"),
        ("../images/{stem}.png", "leads out of the folder; expected one within it"),
        ("/data/{stem}.png", "leads out of the folder"),
        (["a/{stem}.png", "b/*/{stem}.png"], "have other parts"),
    ],
)
def test_a_pattern_that_means_nothing_is_refused(tmp_path: Path, images: object, told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        find(tmp_path, images)


def test_what_systems_leave_behind_is_left_out(tmp_path: Path) -> None:
    lay(
        tmp_path,
        "images/train/a.png",
        "masks/train/a.png",
        "images/train/._a.png",
        "images/train/Thumbs.db",
        "images/train/desktop.ini",
    )
    lay(
        tmp_path,
        "images/.ipynb_checkpoints/a.png",
        "__MACOSX/images/train/a.png",
        "images/train/.DS_Store",
        "images/@eaDir/a.png",
    )
    found = find(tmp_path)
    assert pairs(found) == [("images/train/a.png", "masks/train/a.png")] and not found.left_over


def test_what_is_left_over_is_named(tmp_path: Path) -> None:
    lay(
        tmp_path,
        "images/train/a.png",
        "masks/train/a.png",
        "masks/train/orphan.png",
        "images/train/b.heic",
        "images/c.png",
        "README.md",
        "LICENSE",
    )
    assert find(tmp_path).left_over == ["images/c.png", "images/train/b.heic", "masks/train/orphan.png"]
    assert find(tmp_path, ignored_files=["images/*.png", "**/*.heic", "masks/train/orphan.png"]).left_over == []


@pytest.mark.parametrize("masks", ["masks/{split}/{stem}.png", "masks/{split}/*/{stem}.png"])
def test_images_without_masks_are_counted(tmp_path: Path, masks: str) -> None:
    lay(tmp_path, "images/train/a.png", "images/train/b.png")
    with pytest.raises(DatasetError, match=r"a.png: image without mask \(2 such images\); expected .*masks/train/.*a.png"):
        find(tmp_path, masks=masks)


def test_a_split_without_masks_can_be_left_out_as_the_error_says(tmp_path: Path) -> None:
    lay(tmp_path, "images/train/a.png", "masks/train/a.png", "images/test/b.png")
    with pytest.raises(DatasetError, match=r"b.png: image without mask; .* write splits: \[train\]"):
        find(tmp_path)
    found = find(tmp_path, splits=["train"])
    assert len(found.pairs) == 1 and found.left_over == ["images/test/b.png"]


def test_lists_of_stems_are_kept_in_their_order(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{kind}/{stem}.png" for kind in ("i", "m") for stem in "abcd"))
    lists: Mapping[str, object] = {"train": ["c", "a"], "val": "val.txt"}
    (tmp_path / "val.txt").write_text("b\n\n")
    found = find(tmp_path, "i/{stem}.png", "m/{stem}.png", splits=lists)
    assert [(pair.split, pair.stem) for pair in found.pairs] == [("train", "c"), ("train", "a"), ("val", "b")]
    assert found.left_over == ["i/d.png", "m/d.png"]


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        ({"train": ["a", "x", "y"]}, "split 'train' lists 'x' and 1 more that are not there"),
        ({"train": ["a", "a"]}, "split 'train' lists 'a' twice"),
        ({"train": "none.txt"}, "none.txt: cannot be read"),
        (["train", "tset"], "split 'tset' is listed, and has no images"),
    ],
)
def test_a_list_that_is_wrong_says_so(tmp_path: Path, splits: object, told: str) -> None:
    lay(tmp_path, "images/train/a.png", "masks/train/a.png")
    with pytest.raises(DatasetError, match=told):
        find(tmp_path, splits=splits)


def test_a_listed_stem_that_is_in_several_folders_must_name_one(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{kind}/{place}/0.png" for kind in ("i", "m") for place in ("p", "q")))
    with pytest.raises(DatasetError, match=r"lists '0', which is i/p/0.png and i/q/0.png"):
        find(tmp_path, "i/*/{stem}.png", "m/*/{stem}.png", splits={"train": ["0"]})
    found = find(tmp_path, "i/*/{stem}.png", "m/*/{stem}.png", splits={"train": ["q/0"]})
    assert pairs(found) == [("i/q/0.png", "m/q/0.png")]


@pytest.mark.parametrize("line", ["a b", "a b.png", "p/a b", "i/p/a b.png", "i/p/a b"])
def test_a_list_may_name_images_by_stem_by_file_or_by_path(tmp_path: Path, line: str) -> None:
    lay(tmp_path, "i/p/a b.png", "m/p/a b.png", "i/p/c.png", "m/p/c.png")
    (tmp_path / "l.txt").write_text(f"{line}\r\nc 1\n")
    found = find(tmp_path, "i/*/{stem}.png", "m/*/{stem}.png", splits={"train": "l.txt"})
    assert [pair.stem for pair in found.pairs] == ["a b", "c"]


def test_a_mask_of_another_ending_is_pointed_at(tmp_path: Path) -> None:
    lay(tmp_path, "images/train/a.png", "masks/train/a.gif")
    with pytest.raises(
        DatasetError, match=r"image without mask; .*there is masks/train/a.gif: for it, let layout.masks end in .gif"
    ):
        find(tmp_path, masks="masks/{split}/{stem}.png")


def test_links_to_nothing_and_pipes_are_named_and_not_waited_for(tmp_path: Path) -> None:
    lay(tmp_path, "images/train/a.png", "masks/train/a.png")
    (tmp_path / "images/notes").symlink_to(tmp_path / "nowhere")
    assert len(find(tmp_path).pairs) == 1
    os.mkfifo(tmp_path / "masks/train/b.png")
    with pytest.raises(DatasetError, match=r"masks/train/b.png: is no file"):
        find(tmp_path)
    (tmp_path / "masks/train/b.png").unlink()
    (tmp_path / "images/train/c.png").symlink_to(".git/annex/objects/x")
    with pytest.raises(DatasetError, match=r"images/train/c.png: is no file, but a link to nothing"):
        find(tmp_path)


def test_images_in_a_flat_folder_get_the_line_to_write(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.png", "masks/a.png")
    with pytest.raises(
        DatasetError, match=r"no images found; .* there are 2 images such as images/a.png: .* write layout: (.*)"
    ) as told:
        find(tmp_path)
    layout = yaml.safe_load(str(told.value).partition("write layout: ")[2])
    assert pairs(find(tmp_path, **layout)) == [("images/a.png", "masks/a.png")]


def test_linked_folders_are_followed_and_circles_refused(tmp_path: Path) -> None:
    lay(tmp_path, "elsewhere/train/a.png", "data/masks/train/a.png")
    (tmp_path / "data/images").symlink_to(tmp_path / "elsewhere")
    assert len(find(tmp_path / "data").pairs) == 1
    (tmp_path / "data/masks/again").symlink_to(tmp_path / "data")
    with pytest.raises(DatasetError, match="is a link to a folder that it lies in"):
        find(tmp_path / "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    lay(tmp_path, "images/train/a.png", "masks/train/a.png")
    (tmp_path / "images/train").chmod(0)
    try:
        with pytest.raises(DatasetError, match=r"images/train.*Permission denied"):
            find(tmp_path)
    finally:
        (tmp_path / "images/train").chmod(0o755)


def test_files_come_in_the_order_of_their_folders(tmp_path: Path) -> None:
    lay(tmp_path, "b/a.png", "a-b/c.png", "a/z.png", "a.png")
    assert list_files(tmp_path) == ["a/z.png", "a-b/c.png", "a.png", "b/a.png"]
    assert list_files(tmp_path) == [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*.png"))]


def test_what_a_pattern_found_fills_it_again() -> None:
    for text, name in (
        ("a/{split}/*/{stem}_x.png", "a/t/q/s_x.png"),
        ("**/{stem}.png", "x/y/s.png"),
        ("{{a}}/{stem}.png", "{a}/s.png"),
    ):
        pattern = Pattern(text, "")
        parts = pattern.match(name)
        assert parts is not None and pattern.fill(parts) == name
    assert Pattern("{split}_{stem}.png", "").match("train_a_1.png") == Parts("train", (), "a_1")


def test_each_file_is_looked_at_once_by_each_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the time grows with the number of files; how long it takes is in ``benchmarks/opening.py``."""
    lay(tmp_path, *(f"{kind}/{split}/{number}.png" for kind in ("images", "masks") for split in "abc" for number in range(20)))
    matched: list[str] = []
    plain = Pattern.match
    monkeypatch.setattr(Pattern, "match", lambda pattern, name: matched.append(name) or plain(pattern, name))
    listed: list[Path] = []
    monkeypatch.setattr(finding, "list_files", lambda place, refuse: listed.append(place) or list_files(place))
    assert len(find(tmp_path).pairs) == 60
    assert len(listed) == 1 and len(matched) == 2 * 120


def test_a_split_may_be_listed_in_several_files(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{kind}/{stem}.png" for stem in "abcd" for kind in ("i", "m")))
    (tmp_path / "lists").mkdir()
    for name, text in {"train_day": "b\n", "train_night": "a\nc\n", "val": "d\n", "train_{dusk}": "d\n"}.items():
        (tmp_path / "lists" / f"{name}.txt").write_text(text)

    def stems(train: str) -> list[str]:
        found = find(tmp_path, "i/{stem}.png", "m/{stem}.png", splits={"train": train, "val": "lists/val.txt"})
        return [pair.stem for pair in found.pairs if pair.split == "train"]

    assert stems("lists/train_{day,night}.txt") == ["b", "a", "c"]
    assert stems("lists/train_{dusk}.txt") == ["d"]  # a file of that very name
    with pytest.raises(DatasetError, match=r"dataset.yaml: splits: 'lists/\*_x.txt' matches no file"):
        stems("lists/*_x.txt")
    (tmp_path / "lists" / "train_night.txt").write_text("a\nb\n")
    with pytest.raises(DatasetError, match="split 'train' lists 'b' twice"):
        stems("lists/train_{day,night}.txt")

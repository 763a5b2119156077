"""What people hand to a program by mistake: paths of every wrong kind, and runs, keys and files of another kind or damaged."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from experiments import EXPERIMENT
from foreign import honest_run

from agentkd.cli import main
from agentkd.exchange.keys import new_key_pair, save_key_pair
from agentkd.networks.build import build
from agentkd.networks.families import resolve
from agentkd.report.packing import write_bundle

GARBAGE = bytes(range(256)) * 16
PUBLIC_KEY = new_key_pair().public
ODD_NAMES = ("run#2", "what?now", "50%20off", "a b", "Läufe 火", "new\nline", "q'uote", "[1]", "{x}", "\udcff\udc80", "n" * 255)


class WrongThings:
    """A folder of things; each pool is a list of what may be typed as an argument, of which few are right."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        self.any_path = list(self._paths())
        self.runs = [*self._runs(), *self.any_path]
        self.experiments = [*self._experiments(), str(self.place / "run"), *self.any_path]
        self.weights = [*self._weights(), str(self.place / "run"), str(self.place / "bundle.zip"), *self.any_path]
        self.bundles = [*(one for one in self.runs if one.endswith(".zip")), str(self.place / "run"), *self.any_path]
        self.datasets = [*self._datasets(), *self.any_path]
        self.keys = [*self._keys(), str(self.place / "bundle.zip"), *self.any_path]
        self.key_folders = [*self._key_folders(), str(self.place / "run"), *self.any_path]

    def write(self, name: str, content: bytes | str) -> str:
        path = self.place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def outs(self, place: Path) -> list[str]:
        """Where one might have something written: new places, and ones that cannot be."""
        file, pipe, taken = place / "file", place / "pipe", place / "taken"
        file.write_text("mine")
        os.mkfifo(pipe)
        taken.mkdir()
        (taken / "mine").write_text("mine")
        (place / "dangling").symlink_to(place / "nowhere" / "at all")
        (place / "loop").symlink_to(place / "loop")
        wrong = [
            file,
            file / "below",
            pipe,
            taken,
            place / "dangling",
            place / "loop",
            Path("/proc/agentkd"),
            place / ("n" * 300),
        ]
        return [*map(str, [place / "new", place / "new" / "er.zip", place / "ö\n#.zip", *wrong, place / Path("deep/" * 900)]), ""]

    def _datasets(self) -> Iterator[str]:
        """Two images, of which one is broken; descriptions that are wrong; and what might be a specification."""
        png = bytes.fromhex(
            "89504e470d0a1a0a0000000d494844520000000100000001080000000"
            "03a7e9b550000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
        )
        for name, described in {
            "data": "name: d\nclasses: [a, b]\n",
            "typo": "name: d\nclases: [a, b]\n",
            "none": "",
            "list": "[1]",
        }.items():
            for part in ("images/train/a.png", "masks/train/a.png", "masks/train/b.png"):
                self.write(f"{name}/{part}", png)
            self.write(f"{name}/images/train/b.png", png[:40])
            description = self.write(f"{name}/dataset.yaml", described)
            yield str(Path(description).parent)
            yield f"folder:path={Path(description).parent}"
        yield from (description, str(self.place / "nothing"), f"camvid:path={self.place}", "~nobody/x", "folder:path=~nobody/x")
        yield from ("generated:seed=1,size=16x16,train=2,validation=1,test=1", "generated:size=x", "generated:train=99999999999")
        yield from (
            "",
            " ",
            "x",
            ":",
            "folder:",
            "folder:path=",
            "few:x:generated:",
            "only:x:generated:seed=1",
            "joined:",
            "a\0b",
        )
        yield from (
            "json:loads",
            "nowhere:x",
            "shared:ffff",
            "unlabelled:",
            "n" * 5000,
            "folder:path=" + "n" * 5000,
            "\udcff",
            "\x1b[2J",
        )

    def _paths(self) -> Iterator[str]:
        for name, content in {
            "empty": b"",
            "text": b"hello\n",
            "binary": GARBAGE,
            "utf16.yaml": "name: x\n".encode("utf-16"),
            "latin1.yaml": "name: äöü\n".encode("latin-1"),
            "page.html": b"<!DOCTYPE html><html></html>",
            "nested.json": b"[" * 100_000,
        }.items():
            yield self.write(f"files/{name}", content)
        with (self.place / "files" / "huge").open("wb") as huge:
            huge.truncate(2**36)
        os.mkfifo(self.place / "pipe")
        (self.place / "dangling").symlink_to(self.place / "nowhere")
        (self.place / "loop").symlink_to(self.place / "loop")
        (self.place / "zero").symlink_to("/dev/zero")
        (self.place / "nothing").mkdir()
        locked = Path(self.write("locked", b"x"))
        locked.chmod(0)
        with socket.socket(socket.AF_UNIX) as listening:
            here = Path.cwd()
            os.chdir(self.place)
            listening.bind("socket")
            os.chdir(here)
        for name in ODD_NAMES[:-1]:
            yield self.write(f"odd/{name}", GARBAGE)
        yield from (str(self.place / name) for name in ("files/huge", "pipe", "dangling", "loop", "zero", "nothing", "locked"))
        yield from (str(self.place / "socket"), str(self.place / "missing"), str(self.place / "text" / "below"), "", "~nobody/x")
        yield from ("/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem", str(self.place / ("n" * 300)), "x/" * 3000)

    def _runs(self) -> Iterator[str]:
        run = honest_run(self.place / "run")
        write_bundle(run, self.place / "bundle.zip")
        yield from [str(run.place), str(self.place / "bundle.zip")] * 5

        def copy(name: str) -> Path:
            shutil.copytree(run.place, self.place / "runs" / name)
            return self.place / "runs" / name

        whole = run.journal.read_bytes()
        for name, journal in {
            "cut": whole[:5000],
            "garbage": GARBAGE,
            "empty": b"",
            "flipped": whole[:9000] + b"\1" + whole[9001:],
        }.items():
            place = copy(name)
            (place / "journal.sqlite").write_bytes(journal)
            yield str(place)
        for name, made in {"pipe": os.mkfifo, "folder": Path.mkdir}.items():
            place = copy(f"journal is a {name}")
            (place / "journal.sqlite").unlink()
            made(place / "journal.sqlite")
            yield str(place)
        for name in ("artifacts", "experiment.yaml", "report"):
            place = copy(f"without {name}")
            shutil.rmtree(place / name) if (place / name).is_dir() else (place / name).unlink()
            yield str(place)
        for name in ("experiment.yaml", "report", "logs", "lock", "contact.json", "artifacts", "cache", "keys"):
            place = copy(f"garbage for {name}")
            shutil.rmtree(place / name) if (place / name).is_dir() else (place / name).unlink(missing_ok=True)
            (place / name).write_bytes(GARBAGE)
            yield str(place)
        for name in ODD_NAMES:
            yield str(copy(name))
        yield str(run.store.place)
        yield from (self.write("data/dataset.yaml", "name: x\nclasses: [a, b]\n").removesuffix("/dataset.yaml"),)
        packed = (self.place / "bundle.zip").read_bytes()
        yield self.write("cut.zip", packed[: len(packed) // 2])
        yield self.write("flipped.zip", packed[:500] + b"\1" + packed[501:])
        yield self.write("none.zip", b"PK\5\6" + bytes(18))

    def _experiments(self) -> Iterator[str]:
        def say(name: str, said: object) -> str:
            return self.write(f"experiments/{name}.yaml", yaml.safe_dump(said))

        yield say("wrong search", EXPERIMENT | {"search": {"trials": -1, "order": "x"}, "seed": "x"})
        for part in sorted(EXPERIMENT.keys() - {"name"}):
            yield say(f"text for {part}", EXPERIMENT | {part: "text"})
        for part in ("name", "data", "families"):
            yield say(f"nothing for {part}", {name: value for name, value in EXPERIMENT.items() if name != part})
        for part in ("families", "launch", "data", "recipe"):
            yield say(f"list for {part}", EXPERIMENT | {part: [[1, None], {"a": 2}]})
            yield say(f"numbers for {part}", EXPERIMENT | {part: {1: 2, None: 3.5}})
        yield say("own that is not there", EXPERIMENT | {"families": ["nowhere:at_all", "os:getcwd", ":", "a.b.c:d.e"]})
        for number, spec in enumerate(
            ("folder:path=/nowhere", "nonsense", "generated:size=-1x0", "generated:train=x", "joined:", "a|b")
        ):
            yield say(f"data {number}", EXPERIMENT | {"data": {"dataset": spec}})
        yield say("odd weights", EXPERIMENT | {"families": {"unet": {"weights": "a\0b"}}})
        yield say("a list", [1, 2])
        yield self.write("experiments/tabs.yaml", "name:\n\t- x")
        yield self.write("experiments/tag.yaml", "!!python/object:os.system x")

    def _weights(self) -> Iterator[str]:
        unet = build(resolve("unet", 5), seed=1)
        torch.save({f"module.{name}": value for name, value in unet.state_dict().items()}, self.place / "right.pth")
        yield from [str(self.place / "right.pth")] * 9
        torch.save({"a": torch.ones(2)}, self.place / "other.pth")
        torch.save([1, 2], self.place / "list.pth")
        torch.save(torch.nn.Linear(1, 1), self.place / "whole.pth")
        yield from (str(self.place / name) for name in ("other.pth", "list.pth", "whole.pth"))
        yield self.write("lfs.pth", b"version https://git-lfs.github.com/spec/v1\n")
        yield self.write("text.safetensors", b"hello")
        yield self.write("long.safetensors", b"\xff" * 7 + b"\0{}")
        yield self.write("cut.pth", (self.place / "other.pth").read_bytes()[:-50])

    def _keys(self) -> Iterator[str]:
        pair = new_key_pair()
        save_key_pair(self.place / "keys" / "mine.json", pair)
        yield str(self.place / "keys" / "mine.json")
        said = {"public": pair.public, "secret": pair.secret}
        wrong = [[], {}, said | {"more": 1}, said | {"secret": "short"}, said | {"secret": 7}, said | {"secret": "é" * 40}]
        wrong += [said | {"public": "x" * 40}, said | {"public": None}, "text", None, [said]]
        for number, data in enumerate(wrong):
            path = self.write(f"keys/wrong{number}.json", json.dumps(data))
            Path(path).chmod(0o600)
            yield path
        yield self.write("keys/open.json", json.dumps(said))

    def _key_folders(self) -> Iterator[str]:
        entry = {"name": "a", "public_key": PUBLIC_KEY, "may": ["weights"], "is_revoked": False}
        listed = [[entry], [], {}, "text", [1], [{}], [entry | {"name": {}}], [entry | {"may": 3}], [entry | {"may": "weights"}]]
        listed += [[entry | {"public_key": []}], [entry | {"public_key": "short"}], [entry | {"name": "../x"}], None]
        for number, data in enumerate(listed):
            yield str(Path(self.write(f"registries/{number}/registry.json", json.dumps(data))).parent)
        yield str(Path(self.write("registries/binary/registry.json", GARBAGE)).parent)
        (self.place / "registries" / "pipe").mkdir()
        os.mkfifo(self.place / "registries" / "pipe" / "registry.json")
        yield str(self.place / "registries" / "pipe")


def typed(arguments: list[str]) -> int:
    """Runs the program in this process; returns its exit status."""
    try:
        main(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 70

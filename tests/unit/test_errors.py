"""The error tree is as drawn, and every leaf has a code and an exit status."""

import errno
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from experiments import environment

from agentkd import errors
from agentkd.messages.bodies import ErrorReply


def subclasses(kind: type) -> list[type]:
    return [kind, *(inner for child in kind.__subclasses__() for inner in subclasses(child))]


def ours(kind: type) -> bool:
    """Other tests make errors of their own."""
    return kind.__module__ == "agentkd.errors"


def test_the_tree_is_as_drawn() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        found = re.fullmatch(r"    ((?:[|` ]  ?)*)(?:[|`]- )?(\w+Error)", line)
        if found:
            depth = (len(line) - len(line.lstrip(" |`-")) - 4) // 3
            path[depth:] = [found[2]]
            drawn[found[2]] = path[depth - 1] if depth else "Exception"
    real = {kind.__name__: kind.__mro__[1].__name__ for kind in subclasses(errors.AgentKDError) if ours(kind)}
    assert drawn == real


def test_every_family_of_errors_has_its_own_exit_code() -> None:
    families = [kind for kind in errors.AgentKDError.__subclasses__() if kind.__module__ == "agentkd.errors"]
    assert len({kind.exit_code for kind in families}) == len(families)


def test_a_config_error_lists_all_problems() -> None:
    error = errors.ConfigError([errors.Problem("a.b", "is wrong"), errors.Problem("c", "too")], source="x.yaml")
    assert str(error) == "x.yaml: 2 problems\n  - a.b: is wrong\n  - c: too"


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, errors.StorageError, ["the disk is full", "free some space"]),
        (errno.EDQUOT, errors.StorageError, ["quota", "free some space"]),
        (errno.EMFILE, errors.DescriptorsError, ["cannot open here", "descriptors of this process", "ulimit -n"]),
        (errno.ENFILE, errors.DescriptorsError, ["descriptors of the whole system"]),
        (errno.EACCES, errors.StorageError, ["Permission denied", "choose another folder"]),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else "",
)
def test_what_the_system_refuses_is_said_in_words(number: int, kind: type[errors.StorageError], words: list[str]) -> None:
    said = f"{os.strerror(number)} (os error {number})"
    for told in (OSError(number, os.strerror(number)), ValueError(said)):  # of the system, and of a library that hands it on
        error = errors.StorageError.of("here", told)
        assert type(error) is kind and all(word in str(error) for word in words), error


def test_a_task_that_found_no_descriptor_is_tried_again_and_does_not_end_the_others() -> None:
    reply = ErrorReply.of(OSError(errno.EMFILE, "Too many open files", "image.png"))
    assert (reply.code, reply.retryable) == ("descriptors", True) and "image.png" in reply.text
    assert ErrorReply.of(OSError(errno.ENOSPC, "No space left on device")).code == "storage"
    assert ErrorReply.of(OSError(errno.ENOENT, "No such file")).code == "internal"


STARVED = """
import os, sys
from pathlib import Path
from PIL import Image
import torch, safetensors.torch, sqlite3, json
from agentkd.artifacts.journal import Journal
from agentkd.artifacts.store import Store
from agentkd.datasets.pictures import open_image
from agentkd.errors import DescriptorsError
from agentkd.exchange.grants import Registry
from agentkd.exchange.keys import load_key_pair, new_key_pair, save_key_pair
from agentkd.training.checkpoint import Progress, copied, write_checkpoint

place = Path(sys.argv[1])
Image.new("RGB", (8, 8)).save(place / "image.png")
save_key_pair(place / "keys" / "a.json", new_key_pair())
registry, network = Registry(place / "keys"), torch.nn.Linear(2, 2)
registry.register("b", new_key_pair().public)
held, tries = [], {
    "store": lambda: Store(place / "store").put(b"x"),
    "journal": lambda: Journal(place / "journal.sqlite"),
    "image": lambda: open_image(place / "image.png"),
    "key": lambda: load_key_pair(place / "keys" / "a.json"),
    "registry": registry.entries,
    "checkpoint": lambda: write_checkpoint(place / "checkpoint", copied(network, {}, Progress(), task="ab" * 32)),
}
kept = [attempt() for attempt in tries.values()]  # or descriptors come free while they are counted
(place / "checkpoint").unlink()
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
tries["store"] = lambda: Store(place / "store").put(b"y")
said = {}
for name, attempt in tries.items():
    try:
        attempt()
    except DescriptorsError as error:
        said[name] = "ulimit -n" in str(error)
    except BaseException as error:
        said[name] = repr(error)
os.close(held.pop())
os.write(1, json.dumps(said).encode())
"""


def test_whatever_cannot_be_opened_for_want_of_descriptors_says_so(tmp_path: Path) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    command = [sys.executable, "-c", STARVED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), preexec_fn=few, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(("store", "journal", "image", "key", "registry", "checkpoint"), True)

"""Every command with wrong, missing, damaged and foreign arguments: a refusal that names the place, and nothing touched."""

import io
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from wrong_things import PUBLIC_KEY, WrongThings, typed

from agentkd.cli import app
from agentkd.visible import visible

HANG_S = 20
TORCHS_OWN = "torchinductor_"  # made when torch is imported for the first time
EXAMPLES = 24
SLOW = {"init": 12, "write": 6, "report": 12, "doctor": 3, "space": 6}
TEXTS = [
    "",
    " ",
    "x",
    "é火",
    "\udcff",
    "-1",
    "0",
    "1e999",
    "nan",
    "a=b",
    "=",
    "../x",
    "/",
    "n" * 5000,
    "\x1b[2J",
    "a\nb",
    "[",
    "{",
    "%s%n",
]
NUMBERS = ["-1", "0", "1", "1.5", "nan", "inf", "-inf", "1e400", "9" * 40, "0x10", "", "five", "٣"]
DEVICES = [
    "cuda:0x0",
    "cpu:1x2",
    "",
    ",",
    "cpu",
    "cpu:0",
    "cpu:-1",
    "cpu:x",
    "cuda:99",
    "tpu:0",
    "cpu:1,cuda:99",
    "auto,cuda:99",
    "none",
    "cpu:" + "9" * 30,
]
ENDPOINTS = [
    "",
    "tcp://",
    "tcp://127.0.0.1",
    "tcp://127.0.0.1:99999999",
    "tcp://nowhere.invalid:x",
    "ipc://",
    "x",
    "inproc://a",
    "a\0",
]
DIGESTS = ["", "0", "f" * 64, "zz", "0" * 63, "f" * 100, "%", "_", "'; drop table records; --"]
PUBLIC_KEYS = ["", "short", PUBLIC_KEY[:-1], PUBLIC_KEY + "x", "é" * 40, " " * 40, "-" * 40]
ASSIGNMENTS = [
    *TEXTS,
    "x=1",
    "launch.devices=[",
    "a.b.c=1",
    "name.x=1",
    "families=3",
    "launch.port=x",
    "seed=1e99",
    "data.dataset=x:y",
]
SWAPS = [
    *TEXTS,
    "teacher=",
    "teacher=ffff",
    "teacher=a:b:c",
    "temperature=x",
    "temperature=nan",
    "alpha=inf",
    "codec=x",
    "alpha=7",
]
FORMATS = ["", "yaml", "JSON", "é", "text", "json"]
# Of each argument of each command what is typed. The word before the point is the command's; "*" is any.
POOLS: dict[str, Any] = {
    "*.output_format": FORMATS,
    "*.devices": DEVICES,
    "*.teachers": ["besides", "", "cuda:99", "gpu:1", "cuda:0;cuda:1", "x" * 300],
    "*.engine": [*TEXTS, "slurm", "Ray"],
    "*.agents": NUMBERS,
    "*.gpus_per_agent": NUMBERS,
    "*.cpus_per_agent": NUMBERS,
    "*.bind": [*TEXTS, "0.0.0.0", "no-such0", ",", "300.1.1.1", "::1"],
    "*.overrides": ASSIGNMENTS,
    "*.name": [*TEXTS, "a"],
    "*.family": [*TEXTS, "unet", "unet", "unet", "unet", "resnet", "nowhere:x", "os:getcwd", "os.path:nothing", ":", "json:"],
    "*.classes": [*NUMBERS, "5", "5", "5"],
    "*.channels": [*NUMBERS, "4", "16", "17", "red,green,blue,nir", "red,red", "a,,b", ",", "3"],
    "*.folder": "key_folders",
    "*.out": "outs",
    "*.run": "runs",
    "*.run_folder": "runs",
    "run.file": "experiments",
    "run.seconds": [*TEXTS, "2h", "1h30m", "-1s", "1e3s", "٣h"],
    "run.max_tasks": NUMBERS,
    "run.max_epochs": NUMBERS,
    "run.reuse": "runs",
    "doctor.file": "experiments",
    "replay.task": DIGESTS,
    "replay.swap": SWAPS,
    "replay.tolerance": NUMBERS,
    "lineage.digest": DIGESTS,
    "show.digest": DIGESTS,
    "logs.agent": [*TEXTS, "coordinator", "agent-1", "../journal"],
    "logs.num_lines": NUMBERS,
    "ls.folder": "runs",
    "init.dataset": "datasets",
    "init.file": "outs",
    "init.sample": NUMBERS,
    "schema.file": "outs",
    "completion.shell": [*TEXTS, "bash", "tcsh", "Zsh"],
    "complete-words.words": TEXTS,
    "watch.others": "runs",
    "watch.port": [*NUMBERS, "70000", "99999999999"],
    "watch.parent": NUMBERS,
    "diff.first": "runs",
    "diff.second": "runs",
    "bundle.artifacts": [*TEXTS, "all", "winners", "records"],
    "import.file": "bundles",
    "export.to": [*TEXTS, "tensorboard"],
    "export.model": "runs",
    "export.kind": [*TEXTS, "tflite", "safetensors"],  # the others take long, and are tried elsewhere
    "export.data": [*TEXTS, "generated:size=16x16,train=1,validation=1,test=1", "folder:path=nowhere", "x:y"],
    "export.settings": [*TEXTS, "base=8", "nothing=1"],
    "*.head": [*TEXTS, "day", "a.b"],
    "cost.model": [*TEXTS, "resnet", "nowhere:x", "0" * 64],
    "cost.settings": [*TEXTS, "base=8", "nothing=1"],
    "cost.size": [*TEXTS, "32x", "0x0", "99999x1", "32x32"],
    "cost.runs": NUMBERS,
    "cost.threads": NUMBERS,
    "agent.key": "keys",
    "visit.key": "keys",
    "visit.coordinator_key": PUBLIC_KEYS,
    "visit.join": ENDPOINTS,
    "visit.parent": ["-1", "x", "999999999", "1"],
    "agent.coordinator_key": PUBLIC_KEYS,
    "agent.join": ENDPOINTS,
    "agent.listen": ENDPOINTS,
    "agent.device": [*TEXTS, "cuda:99", "cpu:7"],
    "agent.threads": NUMBERS,
    "agent.transport": [*TEXTS, "tcp"],
    "agent.registry": "key_folders",
    "agent.audit": "outs",
    "agent.parent": ["-1", "x", "999999999", "1"],
    "agent.checkpoint_every": NUMBERS,
    "agent.image_cache_gib": NUMBERS,
    "agent.loaders": NUMBERS,
    "predict.arguments": TEXTS,
    "space.family": [*TEXTS, "resnet", "Unet", "unet ", "nowhere:x", "os:getcwd", ":"],
    "networks.settings": [*TEXTS, "base=8", "base=x", "base=-1", "base=[1", "nothing=1"],
    "weights.file": "weights",
    "weights.names": [*TEXTS, "a,b", "a,a", "a,b,c,d,e"],
    "weights.settings": [*TEXTS, "base=8", "base=x", "nothing=1"],
    "weights.least": NUMBERS,
    "register.public_key": [*PUBLIC_KEYS, PUBLIC_KEY],
    "register.may": [*TEXTS, "weights", "weights,,x", "tasks"],
    "check.endpoint": ENDPOINTS,
    "check.key": "keys",
    "check.agent_key": PUBLIC_KEYS,
    "check.dataset": "datasets",
    "check.sample": NUMBERS,
    "check.most": NUMBERS,
    "write.folder": "outs",
}
# Commands that would start agents, or wait for one, if all fitted: of these arguments one at least is surely wrong.
STARTING = {
    "run": {"file": "experiments"},
    "demo": {"devices": ["cuda:99", "cpu:x", "", "tpu"], "overrides": ["search.trials=-1", "x=1", "launch=3", "=", "seed=-1"]},
    "community": {"devices": ["cuda:99", "cpu:x", "", "tpu"], "overrides": ["port=-1", "x=1", "=", "lease_s=nan", "engine=x"]},
    "watch": {"port": ["-1", "x", "70000", "nan", ""]},
    "agent": {"parent": ["-1", "x", "999999999"]},
    "visit": {"key": "keys"},
    "doctor": {"engine": ["", "slurm", "Ray", "command"]},
    "replay": {"task": [digest for digest in DIGESTS if digest], "devices": ["cuda:99", "cpu:x", "", "tpu"]},
    "check": {"agent_key": PUBLIC_KEYS, "classes": ["x", "0", "-1"]},
}
# What says by its exit status 1 that it found what should not be; it names what.
FINDING = {
    "init": ("FAIL", '"file": null'),
    "verify": ("FAIL", '"is_sound": false'),
    "doctor": ("FAIL", '"is_ok": false'),
    "replay": ("diverged",),
    "check": ("FAIL", '"is_sound": false'),
}
SQLITES_OWN = ("-shm", "-wal")  # which whoever reads a journal has beside it
WRITES_IN_RUN = {"report", "gc", "community", "agent"}


def commands(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name), command


COMMANDS = {" ".join(words): command for words, command in commands(typer.main.get_command(app))}


def is_flag(parameter: Any) -> bool:
    return bool(getattr(parameter, "is_flag", False))


def pool_of(command: str, parameter: str) -> Any:
    word = command.split()[-1]
    return POOLS.get(f"{word}.{parameter}", POOLS.get(f"*.{parameter}"))


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_arguments_are_prepared_for_every_argument_of_every_command(name: str) -> None:
    lacking = [one.name for one in COMMANDS[name].params if not is_flag(one) and pool_of(name, one.name) is None]
    assert not lacking, f"say in POOLS what is typed for {lacking} of agentkd {name}"


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> WrongThings:
    return WrongThings(tmp_path_factory.mktemp("wrong") / "in")


@pytest.fixture
def quiet(things: WrongThings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder, a home and a temporary folder of its own, and signals, limits and logs as before."""
    for name in ("home", "here", "temporary"):
        (tmp_path / name).mkdir()
    for variable, folder in {
        "HOME": "home",
        "AGENTKD_KEYS": "home",
        "TMPDIR": "temporary",
        "XDG_RUNTIME_DIR": "temporary",
    }.items():
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path / "here")
    held = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)}
    yield tmp_path
    for number, handler in held.items():
        signal.signal(number, handler)


class HangError(BaseException):
    """It took too long."""


def hang(number: int, frame: object) -> None:
    raise HangError


def state(place: Path) -> dict[str, tuple[object, ...]]:
    """All below a folder: kind, rights, size, when it was written."""
    found = {str(path): path.lstat() for path in place.rglob("*")}
    return {
        path: (kept.st_mode, *(() if stat.S_ISDIR(kept.st_mode) else (kept.st_ino, kept.st_size, kept.st_mtime_ns)))
        for path, kept in found.items()
    }


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Exit status, output, errors."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace") for _ in range(2))
    signal.signal(signal.SIGALRM, hang)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        signal.alarm(HANG_S)
        try:
            status = typed(arguments)
        except HangError:
            pytest.fail(f"still at it after {HANG_S} s: agentkd {arguments!r}")
        finally:
            signal.alarm(0)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return status, *texts


@st.composite
def lines(draw: st.DrawFn, name: str, things: WrongThings, outs: list[str]) -> tuple[list[str], list[str], list[str]]:
    """A line as it may be typed for a command: its words, those of them that are values, and those that name places to write."""

    def values(pool: Any) -> list[str]:
        return outs if pool == "outs" else getattr(things, pool) if isinstance(pool, str) else pool

    parameters, word = COMMANDS[name].params, name.split()[-1]
    sure = draw(st.sampled_from(sorted(STARTING[word].items()))) if word in STARTING else ("", [])
    options, places, given, named = [], [], [], []
    for parameter in parameters:
        is_sure = parameter.name == sure[0]
        is_needed = parameter.required or is_sure
        if is_flag(parameter):
            options += [parameter.opts[0]] if draw(st.booleans()) and parameter.name != "help" else []
            continue
        if (not draw(st.integers(0, 9)) and not is_sure) or not (is_needed or draw(st.booleans())):
            continue
        pool = sure[1] if is_sure else pool_of(name, parameter.name)
        value = draw(st.sampled_from(values(pool)))
        given.append(value)
        if pool == "outs" or (word in WRITES_IN_RUN and pool == "runs") or pool == "key_folders":
            named.append(value)
        if parameter.param_type_name == "argument":
            places.append(value)
        else:
            options.append(f"{parameter.opts[0]}={value}")
    return [*name.split(), *options, "--", *places], given, named


def is_told_where(said: str, given: list[str], name: str) -> bool:
    """Whether a text names something that was typed, or the argument that it is about."""
    typed_words = [visible(word) for word in given if word.strip()]
    typed_words += [visible(word.partition("=")[0]) for word in given if "=" in word[1:]]
    known = [
        word
        for one in COMMANDS[name].params
        for word in (*(opt.strip("-") for opt in one.opts), one.metavar or "", str(one.name).upper())
    ]
    known += ["--from-record", "--set", "the run", "runs/", "descriptors"]
    return any(word in said or word[:60] in said or repr(word)[1:-1][:60] in said for word in typed_words) or any(
        word in said for word in known if len(word) > 2
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_whatever_is_typed_ends_in_order(name: str, things: WrongThings, quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word = name.split()[-1]
    (quiet / "out").mkdir()
    outs = things.outs(quiet / "out")
    whole, faults = state(things.place), []

    @settings(
        max_examples=SLOW.get(word, EXAMPLES),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(lines(name, things, outs))
    def check(line: tuple[list[str], list[str], list[str]]) -> None:
        arguments, given_, named = line
        status, out, err = run(arguments, monkeypatch)
        said = f"\n\n--- agentkd {arguments!r}\nexit {status}\n{out[-2000:]}\n{err[-3000:]}"
        made = (
            {path.name for path in (quiet / "here").glob("*.*")} if word == "init" and status == 0 else set()
        )  # called as the data
        written_here = {"runs", "data-check", *made, *(one.split("/")[0] for one in named if not one.startswith("/"))}
        temporary = [one for one in (quiet / "temporary").iterdir() if not one.name.startswith(TORCHS_OWN)]
        left = [*temporary, *(one for one in (quiet / "here").iterdir() if one.name not in written_here)]
        for one in [*left, quiet / "here" / "runs", quiet / "here" / "data-check"]:
            shutil.rmtree(one, ignore_errors=True)
        for name_made in made:
            (quiet / "here" / name_made).unlink()
        after = state(things.place)
        changed = [path for path in after.keys() | whole.keys() if after.get(path) != whole.get(path)]
        strange = [
            path
            for path in changed
            if not path.endswith(SQLITES_OWN) and not any(one and Path(path).is_relative_to(one) for one in named)
        ]
        kept = (quiet / "out" / "taken" / "mine").exists() and stat.S_ISFIFO((quiet / "out" / "pipe").lstat().st_mode)
        has_found = any(found in out for found in FINDING.get(word, ()))
        checks = {
            "a traceback": "Traceback" in out + err,
            "its exit status": not (status in (0, 2) or 10 <= status <= 21 or (status == 1 and has_found)),
            "it names no place": not (status in (0, 1) or has_found or is_told_where(err, given_, name)),
            f"left behind: {left}": left,
            f"changed: {strange}": strange,
            "what was there is lost": not kept,
        }
        faults.extend(f"{said}\n=> {what}" for what, is_so in checks.items() if is_so)
        whole.update({path: after[path] for path in changed if path in after})
        for path in changed:
            if path not in after:
                del whole[path]

    check()
    assert not faults, "".join(faults[:20])

"""Completion of commands, options and values, as bash, zsh and fish ask for it; help; and answers and errors for programs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from command_lines import typed
from experiments import environment
from foreign import honest_run

from agentkd.cli import app
from agentkd.cli.app import first_sentence
from agentkd.cli.completing import SCRIPTS, VALUES
from agentkd.errors import BUDGET_SPENT, AgentKDError, ConfigError, exit_codes
from agentkd.launch.engines import ENGINES
from agentkd.networks.families import FAMILIES


def commands(group: Any, before: tuple[str, ...] = ()) -> dict[str, Any]:
    found = {}
    for name, one in group.commands.items():
        found |= commands(one, (*before, name)) if hasattr(one, "commands") else {" ".join((*before, name)): one}
    return found


COMMANDS = commands(typer.main.get_command(app))
VISIBLE = {name: one for name, one in COMMANDS.items() if not one.hidden}


def completed(*words: str) -> list[str]:
    done = typed("complete-words", "--", *words)
    assert done.status == 0, done.err
    return done.out.splitlines()


def test_commands_and_options_are_completed() -> None:
    assert completed("st") == ["status"] and completed("keys", "re") == ["register", "revoke"]
    assert {name.split()[0] for name in VISIBLE} == set(completed(""))
    assert (
        "--devices" in completed("run", "--") and "--help" in completed("run", "--") and "--max-tasks" in completed("run", "--m")
    )
    assert "-f" in completed("logs", "-") and completed("run", "e.yaml", "--no-such") == []
    assert completed("nothing", "x") == [] and completed("complete") == [], "what is hidden is not offered"


def test_values_are_completed_where_they_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    honest_run(tmp_path / "runs" / "first")
    folder = honest_run(tmp_path / "second")
    folder.logs.mkdir()
    (folder.logs / "agent-7.log").touch()
    assert completed("networks", "--family", "") == list(FAMILIES) and completed("space", "pid") == [
        "pidnet_s",
        "pidnet_m",
        "pidnet_l",
    ]
    assert completed("run", "--engine", "") == list(ENGINES) and completed("run", "--format", "j") == ["json"]
    assert completed("status", "") == ["runs/first", "second"] and completed("diff", "second", "ru") == ["runs/first"]
    assert completed("logs", "--run", "second", "a") == ["agent-7"] and completed("logs", "c") == ["coordinator"]
    assert completed("export", "--format", "") == ["onnx", "torch", "safetensors"]
    assert completed("export", "--format=o") == ["--format=onnx"] and completed("completion", "") == list(SCRIPTS)
    assert completed("run", "--set", "") == [] and completed("run", "") == [], "files are the shell's"


def test_every_parameter_with_known_values_is_there() -> None:
    there = {one.name for command in COMMANDS.values() for one in command.params}
    assert set(VALUES) - {"reuse"} <= there


ASKED = {
    "bash": """
        source <(agentkd completion bash)
        COMP_WORDS=(agentkd keys re); COMP_CWORD=2; _agentkd_complete
        echo "${COMPREPLY[@]}"
    """,
    "zsh": """
        compdef() { :; }
        source <(agentkd completion zsh)
        compadd() { print -- ${(P)2}; }
        words=(agentkd keys re); CURRENT=3; _agentkd
    """,
    "fish": "source (agentkd completion fish | psub); complete -C 'agentkd keys re'",
}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_shell_takes_the_script_and_completes_with_it(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "agentkd").write_text(f'#!/bin/sh\nexec {sys.executable} -m agentkd "$@"\n')
    (tmp_path / "agentkd").chmod(0o755)
    given = environment()
    given |= {"PATH": f"{tmp_path}:{given['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run([program, "-c", ASKED[shell]], capture_output=True, text=True, env=given, timeout=150, check=False)
    assert done.returncode == 0 and done.stdout.split() == ["register", "revoke"], done.stderr


def test_another_shell_is_refused() -> None:
    assert "none of bash, zsh, fish" in typed("completion", "tcsh").err


@pytest.mark.parametrize("name", VISIBLE)
def test_h_is_help_and_the_list_has_first_sentences_whole(name: str) -> None:
    short, long = typed(*name.split(), "-h"), typed(*name.split(), "--help")
    assert short.status == long.status == 0 and short.out == long.out and "Usage: agentkd" in short.out
    listed = " ".join(typed(*name.split()[:-1], "-h").out.partition("Commands:")[2].split())
    assert first_sentence(VISIBLE[name].help or "") in listed and "..." not in listed


def test_the_help_lists_every_exit_code_as_the_errors_have_them() -> None:
    out = typed("--help").out
    for code, means in exit_codes().items():
        assert f"{code:>5}  {means}\n" in out
    kinds = [kind for kind in AgentKDError.__subclasses__() if kind.__module__ == "agentkd.errors"]
    assert {kind.exit_code for kind in kinds} | {0, 1, 70, BUDGET_SPENT, 130, 141} <= set(exit_codes())
    assert exit_codes()[ConfigError.exit_code] == "the experiment file or an option is wrong"


# What answers people alone, and why.
WITHOUT_JSON = {
    "schema": "it prints JSON",
    "completion": "it prints a script",
    "community": "it goes on until it is ended",
    "agent": "it goes on until it is ended",
    "predict": "it writes files, JSON among them",
    "export": "its --format is the file's; it has --json",
    "watch": "it goes on until it is ended",
}


@pytest.mark.parametrize("name", [name for name in VISIBLE if name not in WITHOUT_JSON])
def test_every_command_answers_programs_too(name: str) -> None:
    assert [one.opts for one in VISIBLE[name].params if one.name == "output_format"] == [["--format"]]


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (("status", "/nowhere"), "artifact", 15),
        (("status", "--bogus"), "usage", 2),
        (("lineage",), "usage", 2),
        (("run", "/nowhere.yaml"), "config", 2),
        (("run", "/nowhere.yaml", "--for", "x"), "usage", 2),
        (("data", "check", "/nowhere"), "dataset", 17),
    ],
)
@pytest.mark.parametrize("form", [("--format", "json"), ("--format=json",)])
def test_errors_are_told_programs_as_one_document_on_one_line(
    words: tuple[str, ...], code: str, status: int, form: tuple[str, ...]
) -> None:
    done = typed(*words, *form)
    assert done.status == status and done.out == "" and done.err.count("\n") == 1
    error = json.loads(done.err)["error"]
    assert (error["code"], error["exit_code"]) == (code, status) and error["text"]
    in_words = typed(*words).err
    assert '"error"' not in in_words and error["text"].split("\n")[0][:40] in " ".join(in_words.split())


def test_all_problems_of_a_file_are_told_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("name: x\nsede: 1\ndata: {dataset: 'generated:seed=1'}\nfamilies: [unet]\nseed: -1\n")
    error = json.loads(typed("run", tmp_path / "e.yaml", "--format", "json").err)["error"]
    assert {one["path"] for one in error["problems"]} == {"sede", "seed"}


def test_a_fault_of_agentkd_is_told_programs_with_the_place_of_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentkd.report import standing

    def broken(folder: object) -> None:
        raise RuntimeError("broken\nfor a test")

    monkeypatch.setattr(standing, "standing_of", broken)
    done = typed("status", honest_run(tmp_path / "run").place, "--format", "json")
    error = json.loads(done.err)["error"]
    assert done.status == 70 and error["code"] == "error" and "broken" in Path(error["traceback"]).read_text()
    Path(error["traceback"]).unlink()
    said = typed("status", tmp_path / "run").err
    assert said.startswith("error: agentkd itself failed: RuntimeError") and "this is a fault of agentkd" in said
    Path(said.split("the full traceback is in ")[1].split("\n")[0]).unlink()


def test_keys_bundles_and_what_is_written_are_told_programs(tmp_path: Path) -> None:
    run = honest_run(tmp_path / "run").place

    def as_data(*words: object) -> Any:
        done = typed(*words, "--format", "json")
        assert done.status == 0, done.err
        return json.loads(done.out)

    made = as_data("keys", "new", "a", "--keys", tmp_path / "keys")
    assert Path(made["file"]).is_file() and len(made["public_key"]) == 40
    assert as_data("keys", "register", "b", "=" * 40, "--keys", tmp_path / "keys")["name"] == "b"
    assert as_data("keys", "revoke", "b", "--keys", tmp_path / "keys")["name"] == "b"
    packed = as_data("bundle", run, tmp_path / "b.zip")
    assert packed["file"].endswith("b.zip") and packed["num_files"] > 0 and len(packed["sha256"]) == 64
    assert as_data("import", tmp_path / "b.zip", tmp_path / "again")["num_records"] == 2
    assert as_data("protocol", "write", tmp_path / "protocol")["files"]

"""Completion of what is typed in bash, zsh and fish: the shells ask this program, which knows its own commands and options.

A shell's script hands over the words so far, the last one unfinished, and is given candidates, one a line. Nothing is imported
that a candidate does not need. Where there are none, the shell completes files.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from agentkd.cli.ending import say
from agentkd.cli.typed import FORMATS

MAX_CANDIDATES = 200
BASH = """_agentkd_complete() {
    local IFS=$'\\n'
    COMPREPLY=($(agentkd complete-words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _agentkd_complete agentkd
"""
ZSH = """#compdef agentkd
_agentkd() {
    local -a found
    found=("${(@f)$(agentkd complete-words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=(${found:#})
    if (( ${#found} )); then
        compadd -a found
    else
        _files
    fi
}
compdef _agentkd agentkd
"""
FISH = """function __agentkd_complete
    set -l found (agentkd complete-words -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c agentkd -f -a '(__agentkd_complete)'
"""
SCRIPTS = {
    "bash": (BASH, "source <(agentkd completion bash), in ~/.bashrc for every shell"),
    "zsh": (ZSH, "source <(agentkd completion zsh), in ~/.zshrc after compinit for every shell"),
    "fish": (FISH, "agentkd completion fish > ~/.config/fish/completions/agentkd.fish"),
}


def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="For which shell.")],
) -> None:
    """Print a script by which a shell completes commands, options, families, engines, agents' names and run folders.

    In bash: source <(agentkd completion bash). In zsh likewise, after compinit. In fish: agentkd completion fish >
    ~/.config/fish/completions/agentkd.fish.
    """
    if shell not in SCRIPTS:
        raise typer.BadParameter(f"{shell[:80]!r} is none of {', '.join(SCRIPTS)}", param_hint="bash|zsh|fish")
    script, how = SCRIPTS[shell]
    say(f"# {how}\n{script}".rstrip())


def complete_words(
    words: Annotated[list[str] | None, typer.Argument(help="Words so far; the last one is unfinished.")] = None,
) -> None:
    """Say what the last word may become: what a shell asks."""
    from agentkd.cli.app import app

    for candidate in islice(candidates(typer.main.get_command(app), words or [""]), MAX_CANDIDATES):
        say(candidate)


def candidates(group: Any, words: Sequence[str]) -> Iterator[str]:
    """What the last word may become.

    Args:
        group: the program's commands, as typer makes them.
        words: what is typed after the program's name.
    """
    *before, last = words
    expected: Any = None
    num_places = 0
    for word in before:
        if expected is not None:
            expected = None
        elif word.startswith("-") and len(word) > 1:
            option = next((one for one in group.params if word in (*one.opts, *one.secondary_opts)), None)
            expected = option if option is not None and not getattr(option, "is_flag", False) else None
        elif hasattr(group, "commands"):
            if word not in group.commands:
                return
            group = group.commands[word]
        else:
            num_places += 1
    if expected is None and last.startswith("-"):
        name, equals, beginning = last.partition("=")
        option = next((one for one in group.params if name in one.opts), None) if equals else None
        if option is not None:
            yield from (f"{name}={value}" for value in _beginning_so(_values(option, before), beginning))
            return
        names = [name for one in group.params if not getattr(one, "hidden", False) for name in (*one.opts, *one.secondary_opts)]
        options = [name for name in names if name.startswith("--")] if last != "-" else [name for name in names if name[0] == "-"]
        yield from _beginning_so([*options, "--help"], last)
    elif expected is None and hasattr(group, "commands"):
        yield from _beginning_so([name for name, one in group.commands.items() if not one.hidden], last)
    else:
        places = [one for one in group.params if one.param_type_name == "argument"]
        parameter = expected or (places[num_places] if num_places < len(places) else None)
        if parameter is not None:
            yield from _beginning_so(_values(parameter, before), last)


def _beginning_so(found: Iterable[str], beginning: str) -> Iterator[str]:
    return (one for one in dict.fromkeys(found) if one.startswith(beginning))


def _values(parameter: Any, before: Sequence[str]) -> Iterable[str]:
    """What may be typed for a parameter, if that is known and quickly said."""
    find = VALUES.get(parameter.name)
    return find(before) if find is not None else ()


def _families(before: Sequence[str]) -> Iterable[str]:
    from agentkd.networks.families import FAMILIES

    return FAMILIES


def _engines(before: Sequence[str]) -> Iterable[str]:
    from agentkd.launch.engines import ENGINES

    return ENGINES


def _runs(before: Sequence[str]) -> Iterator[str]:
    """Run folders here, and in runs/."""
    for place in (Path("runs"), Path()):
        try:
            yield from sorted(str(one.parent) for one in place.glob("*/journal.sqlite"))
        except OSError:  # a folder that may not be looked into
            continue


def _agents(before: Sequence[str]) -> Iterable[str]:
    """Whose logs there are in the run that was named before."""
    from agentkd.artifacts.run_folder import RunFolder
    from agentkd.report.tailing import log_names

    named = [word for word, option in zip(before[1:], before, strict=False) if option == "--run"]
    return log_names(RunFolder(Path(named[-1]))) if named else ["coordinator"]


VALUES: dict[str, Callable[[Sequence[str]], Iterable[str]]] = {
    "output_format": lambda before: FORMATS,
    "kind": lambda before: ("onnx", "torch", "safetensors"),
    "family": _families,
    "engine": _engines,
    "agent": _agents,
    "teachers": lambda before: ("beside", "spread"),
    "devices": lambda before: ("auto", "cpu:1", "cpu:2", "cuda:0"),
    "artifacts": lambda before: ("all", "winners", "records"),
    "to": lambda before: ("tensorboard", "mlflow"),
    "shell": lambda before: SCRIPTS,
    **dict.fromkeys(("run", "run_folder", "first", "second", "model", "reuse"), _runs),
}

"""The reference of the Python API: which names there are, in which order they are told. Their words are in the code."""

import inspect

import agentkd
from agentkd import errors, objectives, testing

HEAD = """# The Python API

All public names of `agentkd`, and those of `agentkd.testing`. They are imported when they are first used, so `import
agentkd` costs nothing and needs no torch. How to use them together is told in [scripts](../how-to/scripts.md). Errors have
[a page of their own](errors.md), and so have the fields of an [experiment file](experiment.md). On the site that `make docs`
builds, each name below is followed by its signature and its docstring; elsewhere read `help(agentkd.Community)`."""
GROUPS = {
    "Agents in a script": ("Community", "AgentHandle", "Lesson", "mutual", "Edge", "TransferGraph"),
    "Agents that educate each other": ("Educated", "education_cycle", "Rules", "Competence"),
    "Data, networks and results": ("open_dataset", "load_network", "Segmenter", "Architecture", "TaskResult"),
    "How a network learns": ("Recipe", "ViewSettings", "Distillation"),
    "Objectives of a lesson": (
        "SoftTargets",
        "Boundary",
        "Dkd",
        "Dist",
        "ChannelWise",
        "Features",
        "Attention",
        "Pairwise",
        "Ifvd",
        "Own",
        "Payload",
    ),
    "Experiments": ("load_experiment", "Experiment", "run_experiment", "RunFolder", "Watcher", "Silent", "Snapshot", "Outlook"),
}
MODULES = ("errors", "objectives", "testing")


def error_names() -> list[str]:
    """Of the classes of errors, which have a page of their own."""
    return [name for name in agentkd.__all__ if isinstance(getattr(errors, name, None), type)]


def left_out() -> set[str]:
    """Public names that no group has; there must be none."""
    known = {name for names in GROUPS.values() for name in names}
    return set(agentkd.__all__) - known - set(MODULES) - set(error_names()) - {"__version__"}


def page() -> str:
    """The whole page."""
    lines = [HEAD, ""]
    for title, names in GROUPS.items():
        lines += [f"## {title}", "", *(f"- `agentkd.{name}`: {first(getattr(agentkd, name))}" for name in names), ""]
        lines += [line for name in names for line in (f"::: agentkd.{name}", "")]
    lines += ["## Tests of your own code: agentkd.testing", "", first(testing), ""]
    lines += [f"- `agentkd.testing.{name}`: {first(getattr(testing, name))}" for name in testing.__all__]
    lines += ["", *(line for name in testing.__all__ for line in (f"::: agentkd.testing.{name}", ""))]
    told = f"All are names of `agentkd`, and told in [errors and exit codes](errors.md): {', '.join(error_names())}."
    lines += ["## Errors", "", told]
    assert set(MODULES) <= set(agentkd.__all__) and objectives
    return "\n".join(lines)


def first(one: object) -> str:
    """The first sentence of its docstring."""
    return " ".join(inspect.cleandoc(one.__doc__ or "").partition("\n\n")[0].split()).replace("``", "`")

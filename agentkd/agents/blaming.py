"""What went wrong in own code, told as that: which network, dataset or objective, file and line, type and words."""

from collections.abc import Iterator

from agentkd.architecture import Architecture
from agentkd.code.barring import ADVICE, CODE
from agentkd.code.loading import place_of
from agentkd.code.running import lines_of, said, words_of
from agentkd.datasets.opening import own_names
from agentkd.errors import AgentKDError, as_agentkd_error
from agentkd.names import Digest
from agentkd.objectives import Own
from agentkd.task import DataSource, Task, Taught

Asked = Task | tuple[Architecture, DataSource | None] | None


def blame(error: BaseException, asked: Asked) -> str:
    """What an error says, with what of its user's own it has been in.

    Args:
        error: anything that was raised while something was done.
        asked: the task, or what a network was to teach with; ``None`` if it is not known any more who asked for what.

    Returns:
        Empty if the error has nothing to do with own code, or says that already.
    """
    lines = lines_of(error)
    if not lines or as_agentkd_error(error) is not error:
        return ""
    own = list(_own(asked))
    files = {file for file, _ in lines}
    there = [label for label, name, code in own if place_of(name.partition(":")[0], code) in files]
    code = lines[-1][0].partition(">")[0].partition(" ")[2]
    blamed = ", ".join(dict.fromkeys(there or [label for label, _, digest in own if digest.startswith(code)])) or "own code"
    file, line = lines[-1]
    place = f"{file}, line {line}: "
    if isinstance(error, AgentKDError):
        says = words_of(error)
        is_named = any(name in says for _, name, _ in own)
        return "" if is_named and CODE in says else f"{'' if is_named else f'{blamed}: '}{'' if CODE in says else place}{says}"
    hint = f"; if that is a module of yours: {ADVICE}" if isinstance(error, ModuleNotFoundError) else ""
    return f"{blamed}: {place}{said(error)}{hint}"


def _own(asked: Asked) -> Iterator[tuple[str, str, Digest]]:
    """What is own: as it is called in a sentence, its name and its code."""
    networks: list[Architecture] = []
    data: DataSource | None = None
    if isinstance(asked, Task):
        networks = [asked.architecture, *(teacher.architecture for teacher in asked.taught_by if teacher.architecture)]
        data = asked.data
    elif asked is not None:
        networks, data = [asked[0]], asked[1]
    yield from ((f"network {one.family}", one.family, one.code) for one in networks if one.code)
    if data is not None and data.code:
        yield from ((f"dataset {name}", name, data.code) for name in own_names(data.spec))
    if isinstance(asked, Taught):
        objectives = (one for one in asked.distillation.objectives if isinstance(one, Own) and one.code)
        yield from ((f"objective {one.path}", one.path, one.code) for one in objectives)

"""What went wrong in own code, told as that: which network, dataset or objective, file and line, type and words."""

import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from agentkd.architecture import Architecture
from agentkd.code.barring import ADVICE, CODE
from agentkd.code.loading import place_of
from agentkd.code.running import lines_of, raises_itself, said, words_of
from agentkd.datasets.opening import own_names
from agentkd.errors import AgentKDError, OutOfMemoryError, StorageError
from agentkd.messages.bodies import INTERNAL, ErrorReply, TaskRequest, TeachRequest
from agentkd.messages.body import Body
from agentkd.names import NO_TASK, Digest
from agentkd.objectives import Own
from agentkd.shortage import as_agentkd_error, lacks_memory
from agentkd.task import DataSource, Task, Taught

OF_COMPUTING = (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError, NotImplementedError)
"""What PyTorch raises, and a network or a loss, of shapes and numbers that it cannot compute with."""
TORCH, PACKAGE = Path(torch.__file__).parent, Path(__file__).parents[1]
COMPUTES = (TORCH, *(PACKAGE / unit for unit in ("networks", "training", "knowledge", "objectives.py")))
KEEPS = tuple(PACKAGE / "training" / name for name in ("checkpoint.py", "ahead.py"))
"""Parts of training that compute nothing."""

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
    if not lines:
        return ""
    if not raises_itself(error):
        error = as_agentkd_error(error).with_traceback(error.__traceback__)
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


def as_told(error: BaseException) -> tuple[BaseException, str]:
    """An error as it is to be told of, and the code that says who is to blame for it; empty for that of its own class.

    What is no error of ours is ``internal`` where own code has raised it, or whatever computes: the task does so everywhere. What
    the operating system has refused is of the surroundings. And anything else is a fault of the agent itself, with the code that
    the root of the error tree has: nothing is known of the task then, and nobody may take it for its failure.
    """
    told = error if raises_itself(error) else as_agentkd_error(error)
    if isinstance(told, AgentKDError):
        return told, OutOfMemoryError.code if lacks_memory(told) else ""
    if lacks_memory(error):
        return error, OutOfMemoryError.code
    if lines_of(error) or _is_of_computing(error):
        return error, INTERNAL
    if isinstance(error, OSError):
        return StorageError.of_use(error.filename or "a file", error), StorageError.code
    return error, AgentKDError.code


def _is_of_computing(error: BaseException) -> bool:
    """Whether it says that something cannot be computed: it was raised by what computes, last."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not isinstance(error, OF_COMPUTING):
        return False
    file = Path(frames[-1].filename)
    if type(error) is RuntimeError and file.is_relative_to(PACKAGE):  # what PyTorch raises has no frame of its own
        return file not in KEEPS
    return file not in KEEPS and any(file.is_relative_to(place) for place in COMPUTES)


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


def as_reply(error: BaseException, request: Body) -> ErrorReply:
    """An exception as data, with the task that it ended."""
    key, attempt = (request.key, request.attempt) if isinstance(request, TaskRequest) else (NO_TASK, 0)
    taught = (request.architecture, request.data) if isinstance(request, TeachRequest) else None
    text = blame(error, request.task if isinstance(request, TaskRequest) else taught)
    told, code = as_told(error)
    if code == AgentKDError.code:
        text = (
            f"{said(error)}; that is the agent's own fault and not its task's, of which nothing is recorded: its log says where"
        )
    return ErrorReply.of(told, task=key, attempt=attempt, code=code, text=text)

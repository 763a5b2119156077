"""Whether what an agent answers is about what it was asked. What it says about anything else counts as that it failed."""

from agentkd.coordinator.events import Start, Teach
from agentkd.errors import ResultError
from agentkd.messages.bodies import ErrorReply, TaskReply, TeachReply

MAX_QUOTED = 500
Answer = TaskReply | TeachReply | ErrorReply


def to_what_was_asked(asked: Start | Teach | None, answer: Answer) -> Answer:
    """The answer, or the error that is taken in its place: an agent that speaks of something else is asked no further.

    Args:
        asked: what the answer names as its request; ``None`` if that is over, or there was none.
        answer: what came.
    """
    problem = _mismatch(asked, answer) if asked else ""
    return ErrorReply(code=ResultError.code, remote_type=ResultError.__name__, text=problem) if problem else answer


def _mismatch(asked: Start | Teach, answer: Answer) -> str:
    if isinstance(asked, Start):
        wanted = f"was asked for task {asked.task[:12]}, attempt {asked.attempt}"
        if isinstance(answer, TeachReply):
            return f"it {wanted}, and answered that it teaches {answer.weights[:12]}"
        is_about_it = (answer.task, answer.attempt) == (asked.task, asked.attempt)
        if is_about_it or (isinstance(answer, ErrorReply) and not answer.task):  # which answers whatever it was asked
            return ""
    else:
        wanted = f"was asked to teach {asked.teacher.weights[:12]}"
        if isinstance(answer, TeachReply):
            is_about_it = answer.weights == asked.teacher.weights
            return "" if is_about_it else f"it {wanted}, and answered that it teaches {answer.weights[:12]}"
        if isinstance(answer, ErrorReply) and not answer.task:
            return ""
    said = f"an error ({answer.code}: {answer.text[:MAX_QUOTED]})" if isinstance(answer, ErrorReply) else "a result"
    return f"it {wanted}, and answered with {said} of task {answer.task[:12]}, attempt {answer.attempt}"

"""The best candidates of a search, trained again with other seeds: the best of many scores is too good to be true. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from agentkd import seeding
from agentkd.pipeline.choosing import Chooser
from agentkd.pipeline.stages import Entrant
from agentkd.search.selection import Choice
from agentkd.task import Distill, Status, Train


def leading(chooser: Chooser, candidates: Sequence[Entrant], count: int) -> list[Entrant] | None:
    """The first of the candidates in the order in which the rule would take them; ``None`` while the user's rule has not said."""
    pool = {entrant.key: entrant for entrant in candidates}
    taken: list[Entrant] = []
    while pool and len(taken) < count:
        chosen = chooser.choose(pool.values())
        if chosen is None:
            return None
        taken.append(pool.pop(chosen.entrant.key))
    return taken


def again(entrant: Entrant, number: int) -> Train | Distill:
    """The training that made a candidate, with other seeds (by ``number`` the same for all candidates), never stopped early."""
    task = entrant.task
    assert isinstance(task, Train | Distill)
    seeds = {name: seeding.derive(getattr(task, name), "confirm", number) for name in ("seed", "view_seed")}
    return task.replace(**seeds, prune_below=())


def confirmed(entrant: Entrant, repeated: Sequence[Entrant]) -> Entrant | None:
    """A candidate that counts what the other seeds say; ``None`` if with none of them a training was completed."""
    scores = tuple(one.result.judged_by for one in repeated if one.result.status is Status.COMPLETED)
    return replace(entrant, scores=scores) if scores else None


def with_the_others(
    choice: Choice, contenders: Sequence[Entrant], candidates: Sequence[Entrant], finished: Sequence[Entrant]
) -> Choice:
    """The choice among the contenders, with why no other of the candidates, and of what was finished, was one of them."""
    again = f"not among the {len(contenders)} that were trained again with other seeds"
    told = {e.key: "not on the front: another is as good in all that is looked for, and better in one" for e in finished}
    told |= {e.key: again for e in candidates}
    return Choice(choice.task, choice.reasons | {key: text for key, text in told.items() if key not in choice.reasons})

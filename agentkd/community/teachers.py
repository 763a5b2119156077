"""The teachers of a task: who they are, what share each has, where each teaches, and which of its classes is which of ours."""

from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from agentkd.community.works import Data
from agentkd.errors import ConfigError, ContractError
from agentkd.task import Competence, TeacherReference

Route = Literal["shares", "tiles", "classes"]
MAX_SHARE = 1e9


class TeacherLike(Protocol):
    """Whoever can be the teacher of a task: a handle, or a guest."""

    classes: tuple[str, ...]

    @property
    def name(self) -> str: ...
    def as_teacher(self) -> TeacherReference: ...


@runtime_checkable
class Assessing(Protocol):
    """A network of the community, which can look at data for itself. A guest is sent images."""

    def assess(self, data: Data, split: str = "validation") -> Competence: ...
    def evaluate(self, data: Data, split: str = "test") -> Any: ...


def as_teachers(listed: Sequence[TeacherLike], shares: Sequence[float]) -> list[TeacherReference]:
    """Each as a teacher, with its share if shares are given.

    Raises:
        ConfigError: one is no network or has no weights, there is not a share for each, or one is not positive.
    """
    refuse_no_list("networks", listed)
    refuse_no_list("shares", shares)
    strange = [one for one in listed if not hasattr(one, "as_teacher")]
    if strange:
        raise ConfigError(f"{strange[0]!r} is no network; give what community.agent() or community.guest() returned")
    if shares and len(shares) != len(listed):
        raise ConfigError(f"{len(shares)} shares for {len(listed)} teachers; give one for each")
    wrong = [share for share in shares if not (isinstance(share, Real) and 0 < share < MAX_SHARE)]
    if wrong:
        raise ConfigError(f"a share is {wrong[0]!r}; each must be a number above 0 and below {MAX_SHARE:.0e}")
    given = zip(listed, shares or [1.0] * len(listed), strict=True)
    return [teacher.as_teacher().replace(share=float(share)) for teacher, share in given]


def must_be_different(listed: Sequence[object], what: str, why: str) -> None:
    """Nothing, if no two of these are one network. Two heads of one are: they have a trunk, and newest weights, in common.

    Args:
        listed: networks, or heads of networks.
        what: is to be done with them.
        why: one network is not taken for two.

    Raises:
        ConfigError: two are.
    """
    refuse_no_list("networks", listed)
    seen: dict[int, object] = {}
    for one in listed:
        network = getattr(one, "network", one)
        if id(network) in seen:
            first, again = (getattr(each, "name", repr(each)) for each in (seen[id(network)], one))
            told = f"{first} is named twice" if first == again else f"{first} and {again} are of one network"
            raise ConfigError(f"{what}: {told}; {why}")
        seen[id(network)] = one


def routes_of(
    teachers: Sequence[TeacherLike], data: Data, route: Route | Sequence[Sequence[int]], num_parts: int
) -> list[dict[str, Any]]:
    """What each teacher's reference says so that it teaches where it is to.

    Raises:
        ConfigError: not every teacher has parts and every part of the data one teacher, or as ``routed``.
    """
    if route == "shares":
        return [{} for _ in teachers]
    if isinstance(route, str):
        if route not in get_args(Route):
            raise ConfigError(f"route {route!r}: there are {', '.join(get_args(Route))}, or the parts that each teacher teaches")
        return [routed(teacher, data, route) for teacher in teachers]
    if not (isinstance(route, Sequence) and all(is_parts(parts) for parts in route)):
        raise ConfigError(f"route is {route!r}; it is one of {', '.join(get_args(Route))}, or a list of parts for each teacher")
    if len(route) != len(teachers) or not all(route):
        raise ConfigError(f"route names parts for {len(route)} of {len(teachers)} teachers; give each one at least")
    given = Counter(part for parts in route for part in parts)
    if set(given) != set(range(num_parts)) or max(given.values()) > 1:
        named = ", ".join(str(part) for part in sorted(given.elements()))
        raise ConfigError(f"route names the parts {named}; the data have {num_parts}, numbered from 0: name each of them once")
    return [{"parts": tuple(parts)} for parts in route]


def is_parts(parts: object) -> bool:
    """Whether these are numbers of parts."""
    return isinstance(parts, Sequence) and not isinstance(parts, str) and all(type(part) is int for part in parts)


def refuse_no_list(name: str, value: object) -> None:
    """Raises ``ConfigError`` if an argument that should be a list is none."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ConfigError(f"{name}: {value!r} is no list")


def routed(teacher: TeacherLike, data: Data, route: str) -> dict[str, Any]:
    """What a teacher's reference says so that it teaches where it knows best.

    Raises:
        ConfigError: it is a guest, or it is not known what it knows.
    """
    if not isinstance(teacher, Assessing):
        raise ConfigError(f"{teacher.name} is a guest; route={route!r} is for networks of the community")
    competence = teacher.assess(data)
    if route == "classes" and competence.miou is not None:
        return {"class_shares": tuple(value or 0.0 for value in competence.class_iou)}
    if route == "tiles" and competence.energies is not None:
        return {"energies": competence.energies}
    unlabelled, homeless = "the validation split has no labels of its classes", "it has not learned from data in this community"
    raise ConfigError(f"{teacher.name} cannot be routed by {route}: {unlabelled if route == 'classes' else homeless}")


def class_order(ours: Sequence[str], theirs: Sequence[str], class_map: Mapping[str, str] | None) -> tuple[int, ...]:
    """For each of our classes the number of the one of theirs that means the same; empty if they are numbered alike.

    Raises:
        ContractError: the classes differ and the map does not say how they correspond.
        ConfigError: the map is none.

    Example:
        >>> class_order(["sky", "road"], ["Road", "Sky"], {"sky": "Sky", "road": "Road"})
        (1, 0)
    """
    if not (class_map is None or isinstance(class_map, Mapping)):
        raise ConfigError(f"class_map is {class_map!r}; it is a dictionary, from each of the data's classes to the teacher's")
    if class_map is not None and not theirs:
        raise ConfigError(
            "class_map: it is not known which classes the teacher tells apart; say so first: teacher.classes = (...)"
        )
    if not theirs or (tuple(ours) == tuple(theirs) and class_map is None):
        return ()
    if class_map is None:
        hint = "say which class is which: class_map={OURS: THEIRS, ...}"
        raise ContractError("classes", ", ".join(theirs), ", ".join(ours), hint=hint)
    missing = [name for name in ours if class_map.get(name) not in theirs]
    if missing:
        raise ContractError("classes", ", ".join(theirs), missing[0], hint="class_map must name one of them for each class")
    return tuple(theirs.index(class_map[name]) for name in ours)

"""The scripting API with values of wrong kinds: an error of ours, or Python's own for a wrong call; never one from inside."""

import enum
import inspect
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import agentkd
from agentkd.community.handles import AgentHandle
from agentkd.errors import AgentKDError

SPEC = "generated:size=32x32,train=4,validation=2,test=2"
STRANGE: list[Any] = [
    None, True, 0, -1, 1.5, float("nan"), float("inf"), 10**30, "", "x", "é火", "\udcff", "a" * 5000, "unet", SPEC, "/nowhere",
    "a\0b", b"bytes", [], [None], ["x"], (), {}, {"x": 1}, {1: 2}, set(), object(), int, len, Path("/nowhere"), Ellipsis, 1j,
]  # fmt: skip
HURRIED = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
# What makes processes or blocks where its arguments fit; of each of these the first is always wrong.
STARTING = {"run_experiment", "Community"}
# Of what is public, what is not called with values: kinds of errors, enumerations of results, interfaces.
NOT_CALLED = {"errors", "objectives", "testing", "__version__", "Watcher", "Silent", "AgentHandle", "Lesson"}
# Of a network or a community, for other modules of ours.
FOR_US = {"take_up", "inputs", "stand", "take_stored", "must_be_of"}
SLOW_S = 10


def public() -> dict[str, Callable[..., object]]:
    """Every public name that can be called, but errors, which only we raise."""
    found = {name: getattr(agentkd, name) for name in agentkd.__all__ if name not in NOT_CALLED}
    return {name: one for name, one in found.items() if not (isinstance(one, type) and issubclass(one, BaseException))}


def methods(kind: type) -> list[str]:
    return [
        name
        for name, one in inspect.getmembers(kind)
        if not name.startswith("_") and inspect.isfunction(one) and name not in FOR_US
    ]


@pytest.fixture(scope="module")
def community(tmp_path_factory: pytest.TempPathFactory) -> agentkd.Community:
    """One that was never entered: nobody works there."""
    place = tmp_path_factory.mktemp("community")
    os.environ.setdefault("AGENTKD_DATA", str(place))
    return agentkd.Community(devices="cpu:1", record=place / "run")


@pytest.fixture(scope="module")
def handle(community: agentkd.Community) -> AgentHandle:
    return community.agent("student", "unet", num_classes=5)


def refused(call: Callable[[], object], said: str) -> None:
    """Calls; whatever is refused is refused by name, and soon."""

    def late(number: int, frame: object) -> None:
        raise RuntimeError(f"still at it after {SLOW_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SLOW_S)
    try:
        call()
    except (AgentKDError, ValidationError) as error:
        assert str(error).strip(), said
    except TypeError as error:
        frames = traceback.extract_tb(error.__traceback__)
        inside = [frame for frame in frames if f"{os.sep}agentkd{os.sep}" in frame.filename]
        assert not inside or "agentkd" in str(error) or "expected" in str(error), f"{said}: {error!r} from {inside[-1]}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise AssertionError(f"{said}: {type(error).__name__}: {error} ({where.filename}, line {where.lineno})") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@st.composite
def calls(draw: st.DrawFn, one: Callable[..., object], *, spoil: bool) -> tuple[list[Any], dict[str, Any]]:
    """Arguments for something's signature: strange ones, and here and there one that is right."""
    given_, named = [], {}
    try:
        parameters = list(inspect.signature(one).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    for number, parameter in enumerate(one for one in parameters if one.name not in ("self", "cls")):
        value = (
            draw(st.sampled_from(STRANGE)) if not (spoil and number == 0) else draw(st.sampled_from([3, None, "tpu:9", 1.5, []]))
        )
        is_left_out = parameter.default is not parameter.empty and draw(st.booleans()) and not (spoil and number == 0)
        if parameter.kind is parameter.VAR_KEYWORD:
            named |= {"epochs": value} if draw(st.booleans()) else {}
        elif is_left_out:
            continue
        elif parameter.kind in (parameter.KEYWORD_ONLY,) or (named and parameter.kind is not parameter.VAR_POSITIONAL):
            named[parameter.name] = value
        elif parameter.kind is parameter.VAR_POSITIONAL:
            given_ += [value] if draw(st.booleans()) else []
        elif parameter.default is not parameter.empty:
            named[parameter.name] = value
        else:
            given_.append(value)
    return given_, named


def walk(one: Callable[..., object], name: str, *, spoil: bool = False) -> None:
    faults: list[str] = []

    @HURRIED
    @given(calls(one, spoil=spoil))
    def check(arguments: tuple[list[Any], dict[str, Any]]) -> None:
        given_, named = arguments
        try:
            refused(lambda: one(*given_, **named), f"{name}(*{given_!r:.200}, **{named!r:.200})")
        except AssertionError as error:
            faults.append(str(error)[:500])

    check()
    assert not faults, f"{len(faults)} faults\n" + "\n".join(dict.fromkeys(faults[:20]))


@pytest.mark.parametrize("name", sorted(public()))
def test_a_public_name_refuses_what_is_none_of_its_arguments(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = public()[name]
    if isinstance(one, type) and issubclass(one, enum.Enum):
        return
    walk(one, name, spoil=name in STARTING)


@pytest.mark.parametrize("name", methods(agentkd.Community))
def test_a_community_refuses_what_is_none_of_its_arguments(name: str, community: agentkd.Community) -> None:
    walk(getattr(community, name), f"community.{name}")


@pytest.mark.parametrize("name", methods(AgentHandle))
def test_a_network_refuses_what_is_none_of_its_arguments(name: str, handle: AgentHandle) -> None:
    walk(getattr(handle, name), f"agent.{name}")


def test_connecting_refuses_what_is_no_folder() -> None:
    walk(agentkd.Community.connect, "Community.connect")

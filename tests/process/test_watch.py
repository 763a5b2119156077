"""A run that is watched as it goes, and the page in a real browser."""

import itertools
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, find_browser
from experiments import agentkd, command, environment, write_experiment

from agentkd.artifacts.feed import Agent, Ended, FeedReader, Over, Progress, Started
from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder

pytestmark = pytest.mark.process
DEADLINE_S = 150.0
in_a_browser = pytest.mark.skipif(not find_browser(), reason="no Chromium is installed")
WIDTHS = (400, 1280, 2500)


@contextmanager
def page_of(*places: Path, **more: str) -> Iterator[str]:
    """The address of a page, served by a process of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command("watch", *places), **pipes, text=True, env=environment(**more)) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout is not None and process.stderr is not None
            said = process.stdout.readline()
            assert said.startswith("open http://127.0.0.1:"), said
            yield said.removeprefix("open ").strip()
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE_S) == 0, "Ctrl-C is how it ends"
            assert not (errors := process.stderr.read()), errors


def state_of(address: str) -> dict[str, dict[str, Any]]:
    with urllib.request.urlopen(f"{address}state.json", timeout=DEADLINE_S) as answer:
        found: dict[str, dict[str, Any]] = json.load(answer)["put"]
    return found


def events_of(address: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of the stream, each its kind and what it says."""
    with urllib.request.urlopen(f"{address}events", timeout=DEADLINE_S) as answer:
        kind = ""
        for line in answer:
            name, _, value = line.decode().strip().partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)


def test_a_run_tells_what_happens_in_it_and_its_feed_says_what_its_journal_does(undisturbed: Path) -> None:
    folder = RunFolder(undisturbed)
    lines = FeedReader(folder.feed, folder.earlier_feed).read()
    with Journal(folder.journal, read_only=True) as journal:
        records = {record.task.key: record for record in journal.records()}
    ended = {line.task: line for line in lines if isinstance(line, Ended)}
    assert ended.keys() == records.keys() == {line.task for line in lines if isinstance(line, Started)}
    assert {key: (one.agent, one.attempts, one.score) for key, one in ended.items()} == {
        key: (one.agent, one.attempts, one.result.judged_by) for key, one in records.items()
    }
    for line in lines:
        if isinstance(line, Progress) and line.step == line.steps and (exchange := records[line.task].result.exchange):
            assert 0 < line.received_bytes <= exchange.bytes_received and line.waited_s <= round(exchange.waited_s, 3)
    assert all(line.pid and line.host for line in lines if isinstance(line, Agent) and line.condition == "busy")
    assert isinstance(lines[-1], Over) and lines[-1].text == ""


def test_what_happens_is_on_the_page_while_the_run_goes_on(tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir()
    seen: set[str] = set()
    with page_of(place) as address:
        assert state_of(address)["run"]["condition"] in ("empty", "going on")
        run = subprocess.Popen(
            command("run", write_experiment(tmp_path), "--out", place),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        try:
            for _, change in events_of(address):
                put, is_running = change["put"], run.poll() is None
                seen |= {"an agent"} if put.get("agents") and is_running else set()
                seen |= {one["status"] for one in put.get("tasks", {}).values() if is_running}
                seen |= {"a curve"} if put.get("curves") and is_running else set()
                seen |= {"a student"} if any(one.get("hears") for one in put.get("agents", {}).values()) else set()
                seen |= {"a process"} if any(one.get("memory") for one in put.get("agents", {}).values()) else set()
                if put.get("run", {}).get("condition") == "finished":
                    break
        finally:
            run.kill()
            run.wait()
        assert {"an agent", "running", "completed", "a curve", "a student"} <= seen
        verdict = state_of(address)["run"]["verdict"]
    assert verdict["is_finished"] and verdict["winner"] and {one["stage"] for one in verdict["rows"]} >= {"baseline", "round2"}


def test_a_run_may_be_begun_with_its_page_which_ends_with_it(tmp_path: Path) -> None:
    done = subprocess.Popen(
        command("run", write_experiment(tmp_path), "--out", tmp_path / "run", "--watch"),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert done.stdout is not None
        address = next(line.split()[-1] for line in done.stdout if line.startswith("watch it at http://127.0.0.1:"))
        assert state_of(address)["run"]["place"] == str(tmp_path / "run")
        rest = done.stdout.read()
        assert done.wait(DEADLINE_S) == 0 and f"shown again by: agentkd watch {tmp_path / 'run'}" in rest
    finally:
        done.kill()
        done.wait()
        if done.stdout is not None:
            done.stdout.close()
    with pytest.raises(urllib.error.URLError):
        state_of(address)


def test_a_page_ends_with_who_asked_for_it(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from agentkd.cli.watching import watched\n"
        "with watched(Path(sys.argv[1])) as address: print(address, flush=True); time.sleep(600)"
    )
    asked = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment())
    try:
        assert asked.stdout is not None
        address = asked.stdout.readline().strip()
        assert state_of(address)["run"]
    finally:
        asked.kill()
        asked.wait()
        if asked.stdout is not None:
            asked.stdout.close()
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            state_of(address)
        except OSError:
            break
        assert time.monotonic() < deadline, "it is still served"


def test_a_bundle_is_shown(undisturbed: Path, tmp_path: Path) -> None:
    bundle, temporary = tmp_path / "made.zip", tmp_path / "temporary"
    temporary.mkdir()
    assert agentkd("bundle", undisturbed, bundle).returncode == 0
    with Journal(RunFolder(undisturbed).journal, read_only=True) as journal:
        count = len(list(journal.records()))
    with page_of(bundle, undisturbed, TMPDIR=str(temporary)) as address:
        for _, change in events_of(address):
            if (verdict := change["put"].get("run", {}).get("verdict")) is not None:
                break
        assert verdict["is_finished"] and len(state_of(address)["tasks"]) == count
        assert list(temporary.glob("agentkd-watch-*"))
    assert not list(temporary.iterdir()), "nothing of the bundle is left"


# In a browser.

READY = "document.querySelectorAll('#table tbody tr').length"


@pytest.fixture(scope="module")
def shown(undisturbed: Path) -> Iterator[str]:
    with page_of(undisturbed) as address:
        yield address


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as made:
        yield made


@in_a_browser
def test_the_page_fits_every_width_in_light_and_dark_and_says_no_error(shown: str, browser: Browser) -> None:
    seen = "[...document.querySelectorAll('body *')].filter((one) => one.offsetParent && {})"
    for width, dark in itertools.product(WIDTHS, (False, True)):
        browser.open(shown, width=width, dark=dark)
        browser.until(READY, lambda count: count == 2)
        assert browser.run("document.documentElement.scrollWidth") <= width, f"it is wider than {width}"
        ink, ground = (browser.run(f"getComputedStyle(document.documentElement).{what}") for what in ("color", "backgroundColor"))
        assert (brightness(ink) > brightness(ground)) == dark
        drawn = browser.run(f"{seen.format('one.tagName === `CANVAS` && one.toDataURL().length > 2000')}.map((one) => one.id)")
        assert {"lanes", "pareto", "best", "curves"} <= set(drawn)
        tiny = "one.textContent.trim() && parseFloat(getComputedStyle(one).fontSize) < 10"
        assert not browser.run(f"{seen.format(tiny)}.length")
        assert browser.picture().startswith(b"\x89PNG") and not browser.faults


def brightness(color: str) -> float:
    return sum(map(float, color.removeprefix("rgb(").removesuffix(")").split(",")))


@in_a_browser
def test_a_screen_reader_is_told_what_each_part_is(shown: str, browser: Browser) -> None:
    browser.open(shown)
    browser.until(READY)
    told = browser.spoken()
    headings = {name for role, name in told if role == "heading"}
    assert {"tiny", "Agents over time", "Score against size", "Learning curves", "Students: kept or refused, and why"} <= headings
    nameless = [
        role
        for role, name in told
        if role in ("button", "link", "textbox", "searchbox", "combobox", "image", "region", "progressbar") and not name
    ]
    assert not nameless
    assert any(role == "image" and "Pareto front" in name for role, name in told)
    assert any(role == "progressbar" for role, _ in told)
    assert browser.run("document.documentElement.lang") == "en"


@in_a_browser
def test_everything_is_reached_and_read_by_keys(shown: str, browser: Browser) -> None:
    browser.open(shown)
    browser.until(READY)
    reached = set()
    for _ in range(60):
        browser.press("Tab")
        reached.add(browser.run("document.activeElement.id || document.activeElement.tagName"))
        outline = browser.run(
            "document.activeElement === document.body || getComputedStyle(document.activeElement).outlineStyle !== 'none'"
        )
        assert outline, f"nobody sees that {browser.run('document.activeElement.id')} is chosen"
    assert {"lanes", "pareto", "best", "curves", "filter", "span", "log-name", "log", "said"} <= reached
    browser.run("document.getElementById('pareto').focus()")
    told = []
    for _ in range(3):
        browser.press("ArrowRight")
        told.append(browser.run("document.getElementById('spoken').textContent"))
    assert len(set(told)) == 3 and all("parameters" in one and "mIoU" in one for one in told)
    assert browser.run("document.querySelector('#pareto + .tip').hidden") is False
    browser.press("Escape")
    assert browser.run("document.querySelector('#pareto + .tip').hidden") is True


@in_a_browser
def test_logs_are_read_and_lanes_chosen(shown: str, browser: Browser) -> None:
    browser.open(shown)
    browser.until(READY)
    browser.until("document.querySelectorAll('#log-name option').length", lambda count: count > 1)
    browser.run(
        "const log = document.getElementById('log-name'); log.value = 'coordinator'; log.dispatchEvent(new Event('change'))"
    )
    browser.until("document.getElementById('log').textContent", lambda text: text != "Choose whose log is shown.")
    height = browser.run("document.getElementById('lanes').offsetHeight")
    browser.run(
        "const filter = document.getElementById('filter'); filter.value = 'agent-1'; filter.dispatchEvent(new Event('input'))"
    )
    browser.until("document.getElementById('lanes').offsetHeight", lambda now: now < height)


@in_a_browser
def test_a_page_whose_server_has_ended_says_so_and_keeps_what_it_has(undisturbed: Path, browser: Browser) -> None:
    with page_of(undisturbed) as address:
        browser.open(address)
        browser.until(READY)
    browser.until("document.getElementById('condition').dataset.condition", lambda now: now == "away")
    assert browser.run(READY) == 2
    browser.faults.clear()  # the browser says that it could not reach the server, as it must


@in_a_browser
def test_the_page_follows_a_run_in_the_browser(tmp_path: Path, browser: Browser) -> None:
    place = tmp_path / "run"
    place.mkdir()
    with page_of(place) as address:
        browser.open(address)
        browser.until("document.getElementById('condition').textContent", lambda text: "nothing" in text)
        run = subprocess.Popen(
            command("run", write_experiment(tmp_path), "--out", place),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        try:
            browser.until("document.querySelectorAll('#agents tbody tr').length")
            assert run.poll() is None, "it is seen before the run ends"
            assert browser.run("document.getElementById('condition').textContent") == "going on"
            browser.until("document.getElementById('condition').textContent", lambda text: text == "finished")
        finally:
            run.kill()
            run.wait()
        assert browser.run(READY) == 2 and not browser.faults

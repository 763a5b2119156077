"""The conformance kit against our own agent, which passes, and against agents broken on purpose, which fail where they are."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from experiments import agentkd, command
from live_agent import LiveAgent, start_agent

from agentkd.conformance.clause import play
from agentkd.conformance.clauses import all_clauses
from agentkd.exchange.keys import new_key_pair, save_key_pair

pytestmark = pytest.mark.process


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveAgent]:
    made = start_agent(tmp_path)
    yield made
    made.kill()


def test_our_own_agent_keeps_every_clause_and_leaves_at_last(live: LiveAgent, tmp_path: Path) -> None:
    arguments = ["protocol", "check", live.endpoint, "--key", tmp_path / "keys" / "coordinator.json"]
    done = agentkd(*arguments, "--agent-key", live.public_key, "--leave", "--format", "json")
    rows = json.loads(done.stdout)
    assert [row["clause"] for row in rows if not row["is_kept"]] == [] and done.returncode == 0
    remarks = {row["clause"]: row["remark"] for row in rows}
    assert remarks["knowledge.soft_targets"] == "logits [2, 5, 32, 32]"
    assert remarks["knowledge.architecture"] == "tiny_networks:tiny of 5 classes"
    assert remarks["stream.chunks"] == "21 of 4096 bytes" and remarks["assess"].startswith("known 0") and len(rows) > 60
    assert live.process.wait(timeout=20) == 0
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"soft_targets", "feature_maps", "assessment", "weights", "architecture", "data"}
    assert {line["outcome"] for line in lines} == {"served", "streamed", "refused"}, (
        "the last is a kind that a peer was not granted"
    )
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o077 == 0


def test_where_nobody_answers_that_is_all_that_is_said(tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    save_key_pair(key, new_key_pair())
    done = agentkd("protocol", "check", "tcp://127.0.0.1:1", "--key", key, "--agent-key", new_key_pair().public)
    assert done.returncode == 12 and not done.stdout and len(done.stderr.splitlines()) == 1
    assert "nobody answers at tcp://127.0.0.1:1 with that key" in done.stderr


BROKEN = """
from agentkd.exchange import sessions

honest = sessions.Sessions._greeted

def greeted(self, key, message, hello, now):
    if key in self._peers:
        self._peers[key].greeting = hello
    return honest(self, key, message, hello, now)

sessions.Sessions._greeted = greeted
from agentkd.cli import main
main()
"""


def test_an_agent_that_listens_and_takes_another_greeting_breaks_that_clause_alone(tmp_path: Path) -> None:
    """Those that dial are tried with every other clause, see ``test_broken_agents``."""
    honest = command()
    script = tmp_path / "broken.py"
    script.write_text(BROKEN)

    def broken_command(*arguments: object) -> list[str]:
        return [honest[0], str(script), *map(str, arguments)]

    live = start_agent(tmp_path, broken_command)
    try:
        with live.probe() as probe:
            chosen = tuple(clause for clause in all_clauses(5, may_end=False) if not clause.name.startswith("invalid."))
            verdicts = list(play(probe, chosen))
        assert {verdict.clause.name for verdict in verdicts if not verdict.is_kept} == {"join.other"}, verdicts
    finally:
        live.kill()

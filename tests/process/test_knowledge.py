"""The scripts of the five kinds of knowledge: each goes from one agent to another, and no folder is common to the two."""

import json
from pathlib import Path

import pytest
from experiments import EXAMPLES, load_example

KINDS = ("weights", "feature_maps", "soft_targets", "data", "architecture")
pytestmark = pytest.mark.process


@pytest.mark.parametrize("kind", KINDS)
def test_the_script_of_a_kind_hands_it_over_between_agents_that_share_no_folder(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "run"
    code = (EXAMPLES / "knowledge" / f"{kind}.py").read_text(encoding="utf-8")
    assert len(code[code.index("def main") : code.index("if __name__")].strip().splitlines()) <= 12
    result = load_example(f"knowledge/{kind}").main(record=str(place), epochs=1)
    assert result.weights and result.exchange and result.exchange.requests > 0, "by two agents: one taught the other"
    stores = [{path.name for path in store.rglob("*.safetensors")} for store in (place / "agents").glob("*/artifacts")]
    assert len(stores) == 2, "each has a folder of its own"
    lines = [json.loads(line) for log in (place / "logs").glob("*.audit.jsonl") for line in log.read_text().splitlines()]
    served = [(line["kind"], line["name"], line["way"]) for line in lines if line["outcome"] == "served"]
    assert not [way for _, _, way in served if way == "store"], "and no way leads through a common one"
    to = {name for served_kind, name, _ in served if served_kind == kind}
    assert to and (kind == "architecture" or any(name.startswith("agent-") for name in to)), served

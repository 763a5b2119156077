"""Writes ``tests/golden`` anew: ``PYTHONPATH=tests python -m reference.write``. To be done only if what is right has changed."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from reference.scenarios import SCENARIOS
from reference.tasks import by_reference

FOLDER = Path(__file__).parents[1] / "golden"
ORIGIN = (
    "Curves of the trainings in tests/reference/scenarios.py, made by the plain-torch reference in tests/reference/training.py, "
    "losses.py and objectives.py, which calls none of agentkd's training, losses, objectives or codecs. "
    "Written by tests/reference/write.py with torch {}, float32, one thread."
)


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for group in dict.fromkeys(scenario.group for scenario in SCENARIOS):
        curves = {}
        for scenario in (one for one in SCENARIOS if one.group == group):
            with tempfile.TemporaryDirectory() as folder:
                curves[scenario.name] = asdict(by_reference(scenario, Path(folder)))
        told = {"origin": ORIGIN.format(torch.__version__), "curves": curves}
        (FOLDER / f"{group}.json").write_text(json.dumps(rounded(told), indent=1) + "\n", encoding="utf-8")


def rounded(value: object) -> object:
    """With nine digits, which is more than float32 has."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()

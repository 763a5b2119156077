"""One teach-and-distil script, whatever starts its agents: says the digest of the student's weights as its last line.

python tests/lesson_by_an_engine.py FOLDER [NAME=VALUE ...]     settings of ``launch``; values are YAML
... --then COMMAND                                              run by a shell when the lesson has begun
"""

import subprocess
import sys
from pathlib import Path

import agentkd
from agentkd.plain import read_yaml

DATA = "generated:seed=3,size=48x48,train=24,validation=4,test=2"


def main() -> None:
    folder, *rest = sys.argv[1:]
    settings, then = (rest[: rest.index("--then")], rest[rest.index("--then") + 1]) if "--then" in rest else (rest, "")
    launch = {name: read_yaml(value) for name, _, value in (setting.partition("=") for setting in settings)}
    with agentkd.Community(record=Path(folder), **launch) as community:
        big, small = community.agent("big", "unet", base=16), community.agent("small", "unet", base=8)
        big.train(DATA, epochs=1, batch_size=4).result()
        lesson = small.distill(big, DATA, [agentkd.SoftTargets(temperature=4)], epochs=6, batch_size=4)
        for event in lesson.progress():
            if then and event.step >= 2:
                print(subprocess.run(["sh", "-c", then], capture_output=True, text=True, check=False), flush=True)
                then = ""
        result = lesson.result()
    print(f"weights {result.weights}", flush=True)


if __name__ == "__main__":
    main()

"""Runs the scripts of a folder of cases and says of each whether it came out right: what it ended with, and what it said.

The folder is named by the environment variable AGENTKD_CASES (``../shared/cases`` without it). Each case is a folder with
``run.sh``, or with ``make.py`` alone, which lays out its data; then what is to be done with them stands here. Nothing of it
is changed: each case works in a copy.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PLACE = Path(os.environ.get("AGENTKD_CASES", "../shared/cases")).absolute()
LIMIT_S = 900


@dataclass(frozen=True)
class Right:
    """What a case must come to.

    Args:
        says: patterns that its output must have, in any order.
        never: patterns that it must not have.
        instead: what is done, in bash and in a copy of the case, where there is no ``run.sh`` or it names what is elsewhere now.
    """

    says: tuple[str, ...]
    never: tuple[str, ...] = ()
    instead: str = ""


NO_CRASH = (r"Traceback \(most recent call last\)", r"^CRASH", r"agentkd itself failed")
FUZZ = "sed -i 's/import files/import pictures/; s/files._open_image/pictures.open_image/' fuzz.py; $PY fuzz.py"
RUN = "rm -rf run; $PY ../../lib/mkexp.py folder:path={data} > e.yaml; $A run e.yaml --out run; echo exit $?"
RIGHT: dict[str, Right] = {
    "01-mask16": Right((r"(?s)(OPENED|REFUSED).*(OPENED|REFUSED)", r"labels \{0: .*3: |REFUSED")),
    "01b-mask16-large": Right((r"REFUSED DatasetError .*train0|labels .*26001",)),
    "03-image16": Right((r"REFUSED DatasetError .*train0.*scale|image mean (?!255|0\.0)",), (r"image mean (255|0\.0)",)),
    "04-exif": Right((r"bright where labelled: 2[345]\d, bright elsewhere: [0-9]\b",), (r"bright where labelled: 1?\d?\d,",)),
    "07-names": Right((r"(?s)(OPENED.*){8}",), (r"no (image|file)s? found",)),
    "08-wrong-mask": Right((r"frame.1 image says class 1 label is 1|DatasetError.*frame",), (r"class 0 label is [12]",)),
    "09-corrupt": Right((r"DatasetError", r"opened"), (r"^UNCAUGHT",), instead=FUZZ),
    "10-bomb": Right((r"REFUSED DatasetError .*(pixels|large)|OPENED", r"exit (17|2|0)")),
    "15-sizes": Right((r"(?i)crop|size",), (r"internal",)),
    "17-absent": Right((r"(?i)exit 2", r"255"), (r"100\.00",), instead=RUN.format(data="data0255")),
    "19-leak": Right(
        (r"(?i)(same|identical|twice|two splits|both)",),
        instead="for d in data data2 data3; do echo == $d; $PY ../../lib/look.py folder:path=$d; done",
    ),
    "22-checkpoints": Right(
        (r"compiled.pth: .*\b0 left", r"lfs.pth: .*git lfs pull", r"empty.pth: .*is empty", r"numpy-scalar.pth.tar: .*\b0 left"),
        (r"Aborted!",),
        instead="for f in plain ddp compiled ddp-compiled compiled-ddp numpy-scalar.pth.tar lfs empty truncated whole-module; do "
        "case $f in *.tar) n=$f;; *) n=$f.pth;; esac; "
        'echo "$n: $($A weights $n out.safetensors --family pidnet_s --classes 3 2>&1 | tail -1)"; done',
    ),
    "23-own-weights": Right(
        (r"(?m)^mine.pth imported", r"(?m)^prefixed.pth imported", r"(?m)^wrapped.pth imported", r"back .* True"),
        (r"ERROR",),
    ),
    "30-nohup": Right(
        (r"ALIVE after SIGHUP", r"exit (0|130)", r"(?m)^ALIVE$"), (r"ENDED by SIGHUP",)
    ),  # minutes: SIGINT is ignored
    "31-pid-namespace": Right((r"(?s)sockets of A:.*\.sock.*sockets of A after B:.*\.sock", r"A exit (0|130)")),
    "33-shadow": Right((r"exit 0",), (r"cwd has (?!agentkd|numpy|torch|yaml|safetensors)\w+\.py: exit [1-9]",)),
    "39-run-names": Right((r"run exit",), (r"\w+ exit (1|70) ", r"(replay|run) exit 16")),
    "40-cache": Right(  # ten of its images are in two splits, which has to be allowed
        (r"after a lesson:",), (r"\d: '[1-9]\.\d\d GB",), instead="echo 'duplicates: allowed' >> data/dataset.yaml; $PY try.py"
    ),
    "42-report-early": Right((r"report exit 0", r"replay exit"), (r"exit (1|70):",)),
    "43-space": Right(  # the shell does not see the name of the program that it quotes
        (r"own space tuples +exit 2, 0 trainings", r"lr as text 1e-3 +exit 0, [1-9]\d* trainings", r"seed 0 +exit 0"),
        (r"exit (?!0|2)\d+, ", r"exit 2, [1-9]\d* trainings"),
        instead="""sed -i 's/"$AGENTKD"/os.environ["AGENTKD"]/' try.py; export AGENTKD; $PY try.py""",
    ),
    "46-fs": Right((r"run exit",), (r"(run|replay) exit (1|70) ",)),
    "48-moved": Right(  # its own code runs only where the user lets it
        (r"replay from another folder exit (0|2 : .*--allow-code)", r"report from another folder exit 0"), (r"exit (1|70) :",)
    ),
    "51-nested": Right((r"(?m)^18$", r"OPENED"), (r"true label (\d) label used (?!\1)\d",)),
}


def run(case: Path, right: Right, work: Path) -> tuple[str, float]:
    """What a case says, and how long it takes. Its group of processes ends with it."""
    script = case / "run.sh"
    if script.is_file() and not right.instead:
        command = ["bash", str(script)]
    else:
        # env.sh finds its case by the script that sources it, so that one is written to a folder of the same name.
        stand = work / "script" / case.name
        stand.mkdir(parents=True)
        (stand / "run.sh").write_text(
            f'. "{PLACE}/lib/env.sh"\ncp -r "{case}/." .\n[ ! -f make.py ] || $PY make.py\n{right.instead}\n', encoding="utf-8"
        )
        command = ["bash", str(stand / "run.sh")]
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    program = Path(sys.executable).with_name("agentkd")
    environment = {"WORK": str(work / "work"), "PY": sys.executable, "AGENTKD": str(program), "PYTHONPATH": paths, "TERM": "dumb"}
    environment = os.environ | environment
    began = time.monotonic()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        process_group=0,
    ) as process:
        try:
            said, _ = process.communicate(timeout=LIMIT_S)
            text = said.decode(errors="replace")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text = process.communicate()[0].decode(errors="replace") + f"\nstill at it after {LIMIT_S} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return text, time.monotonic() - began


def judged(text: str, right: Right) -> str:
    """Why what a case says is not right; empty if it is."""
    lacking = [f"lacks {pattern!r}" for pattern in right.says if not re.search(pattern, text)]
    found = [f"has {pattern!r}" for pattern in (*NO_CRASH, *right.never) if re.search(pattern, text, re.MULTILINE)]
    late = ["took too long"] if f"still at it after {LIMIT_S} s" in text else []
    return "; ".join([*lacking, *found, *late])


def main(chosen: list[str]) -> int:
    """Runs the cases, those whose names begin with one of the words, and prints the table; 1 if one is not right."""
    if not PLACE.is_dir():
        print(f"no cases in {PLACE}; name their folder by AGENTKD_CASES")
        return 0
    cases = [path for path in sorted(PLACE.iterdir()) if (path / "run.sh").is_file() or (path / "make.py").is_file()]
    cases = [path for path in cases if not chosen or path.name.startswith(tuple(chosen))]
    print(f"{'case':<20} {'seconds':>7}  {'right':<5}  last line")
    wrong = 0
    for case in cases:
        right = RIGHT.get(case.name)
        with tempfile.TemporaryDirectory(prefix="agentkd-case-") as work:
            text, seconds = run(case, right or Right(()), Path(work))
        reason = judged(text, right) if right else "nobody has said in tests/cases.py what is right"
        wrong += bool(reason)
        last = (text.strip().splitlines() or ["(nothing)"])[-1]
        print(f"{case.name:<20} {seconds:>7.1f}  {'NO' if reason else 'yes':<5}  {last[:150]}", flush=True)
        if reason:
            print(f"{'':<36} {reason}", flush=True)
        if os.environ.get("AGENTKD_CASES_LOG"):
            (Path(os.environ["AGENTKD_CASES_LOG"]) / f"{case.name}.log").write_text(text, encoding="utf-8")
    print(f"{len(cases) - wrong} of {len(cases)} are right")
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))

"""A KD-NAS run, to which something is done on the way: ``python kd_nas_by_an_engine.py --when TEXT --then COMMAND ARGUMENT...``

Runs ``agentkd ARGUMENT...`` and says what it says. At a line that has the text a shell runs the command beside it. Ends as the
run does.
"""

import subprocess
import sys


def main() -> int:
    when, text, then, command, *arguments = sys.argv[1:]
    assert (when, then) == ("--when", "--then")
    beside = None
    run = subprocess.Popen(
        [sys.executable, "-m", "agentkd", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert run.stdout
    for line in run.stdout:
        print(line, end="", flush=True)
        if text in line and beside is None:
            beside = subprocess.Popen(["sh", "-c", command])
    code = run.wait()
    if beside is None:
        print(f"nothing was said of {text!r}, so nothing was done", flush=True)
        return code or 1
    beside.kill()
    beside.wait()
    return code


if __name__ == "__main__":
    sys.exit(main())

"""A headless Chromium, spoken to by the DevTools protocol over two pipes: no port is opened, and nothing else is needed."""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import psutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S = 90.0
POLL_S = 0.1


def find_browser() -> str:
    """The program; empty if none is installed."""
    return next(filter(None, map(shutil.which, NAMES)), "") or ""


class Browser:
    """A browser with one page. Use as a context manager; it and all that it started end with it."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._rest = b""
        self.faults: list[str] = []

    def __enter__(self) -> "Browser":
        self._folder = tempfile.mkdtemp(prefix="agentkd-browser-")
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        given = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 20) for one in (theirs_in, theirs_out)]
        os.close(theirs_in), os.close(theirs_out)

        def lay() -> None:
            os.dup2(given[0], 3)
            os.dup2(given[1], 4)

        command = [find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        command += ["--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={self._folder}", "about:blank"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = os.environ | {"DBUS_SESSION_BUS_ADDRESS": "disabled:"}
        self._process = subprocess.Popen(command, preexec_fn=lay, pass_fds=(3, 4), env=environment, **quiet)  # type: ignore[call-overload]
        for one in given:
            os.close(one)
        self._session = ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        every = [self._process.pid]
        with contextlib.suppress(psutil.Error):
            every += [child.pid for child in psutil.Process(self._process.pid).children(recursive=True)]
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        for pid in every:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()
        self._process.wait()
        os.close(self._in), os.close(self._out)
        shutil.rmtree(self._folder, ignore_errors=True)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What a command answers."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE_S
        while number not in self._answers:
            self._hear(deadline)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        found: dict[str, Any] = answer["result"]
        return found

    def open(self, address: str, *, width: int = 1280, height: int = 900, dark: bool = False, still: bool = True) -> None:
        """Opens a page, in a window of that size."""
        self.resize(width, height)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        features += [{"name": "prefers-reduced-motion", "value": "reduce"}] if still else []
        self.ask("Emulation.setEmulatedMedia", features=features)
        self.ask("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def resize(self, width: int, height: int) -> None:
        """Another size of the window, in CSS pixels."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def run(self, script: str) -> Any:
        """What an expression comes to."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, is_so: Callable[[Any], bool] = bool) -> Any:
        """What an expression comes to once that is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not is_so(found := self.run(script)):
            assert time.monotonic() < deadline, f"{script} is still {found!r}; {self.faults}"
            time.sleep(POLL_S)
        return found

    def press(self, key: str) -> None:
        """A key, by its name in DOM events."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def spoken(self) -> list[tuple[str, str]]:
        """Role and name of all that a screen reader is told of."""
        nodes = [node for node in self.ask("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
        return [(node.get("role", {}).get("value", ""), node.get("name", {}).get("value", "")) for node in nodes]

    def picture(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"])

    def _hear(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        assert left > 0 and self._process.poll() is None, f"the browser does not answer: {self._process.poll()}"
        if not select.select([self._in], [], [], min(left, 1.0))[0]:
            return
        *messages, self._rest = (self._rest + os.read(self._in, 1 << 20)).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            elif message["method"] == "Runtime.exceptionThrown":
                self.faults.append(json.dumps(message["params"]["exceptionDetails"])[:500])
            elif message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.faults.append(message["params"]["entry"]["text"] + " " + message["params"]["entry"].get("url", ""))

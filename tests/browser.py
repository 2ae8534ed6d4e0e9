"""A real browser without a window, for tests of what people see: Debian's Chromium.

It is told what to do by its own debugging protocol, over a pipe that only this process holds.
Where there is none, tests are skipped.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NOWHERE = "chromium is nowhere: what people see in a browser cannot be looked at"
WIDTH, HEIGHT = 1280, 900
COMMANDS, ANSWERS = 3, 4  # the descriptors at which Chromium reads and writes


def binary() -> str | None:
    """The browser, where there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One tab."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._read, self._number, self._session = b"", 0, ""
        target = self._call("Target.createTarget", url="about:blank")
        attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self._call("Page.enable")
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def open(self, address: str) -> None:
        """Go to an address, as typed."""
        found = self._call("Page.navigate", url=address)
        assert "errorText" not in found, f"{address}: {found.get('errorText')}"

    def type(self, selector: str, text: str) -> None:
        """Type into the field that a selector finds."""
        self.value(f"document.querySelector({json.dumps(selector)}).focus()")
        self._call("Input.insertText", text=text)

    def value(self, script: str) -> Any:
        """What a line of script comes to in the page: text, a number, a list; of an element nothing."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 30.0) -> Any:
        """Ask until a line of script comes to something; while a page is being left, nothing does."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                found = self.value(script)
            except AssertionError:
                found = None
            if found:
                return found
            if time.monotonic() > deadline:
                shown = self.value("document.body ? document.body.innerText.slice(0, 800) : ''")
                raise AssertionError(f"{script}: nothing within {seconds:.0f} s; the page shows: {shown}")
            time.sleep(0.1)

    def picture(self, file: Path) -> None:
        """What is seen, as PNG."""
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            more = os.read(self._answers, 1 << 16)
            assert more, "the browser has ended"
            self._read += more
        message, _, self._read = self._read.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def browse(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile, until the block ends."""
    found = binary()
    if found is None:
        pytest.skip(NOWHERE)
    command = [
        found, "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu",
        "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
        "--force-color-profile=srgb", f"--user-data-dir={folder}", f"--window-size={WIDTH},{HEIGHT}",
    ]  # fmt: skip
    its_commands, commands = os.pipe()
    answers, its_answers = os.pipe()

    def at_their_places() -> None:
        # copies above what is in use first: one of the four may be at 3 or 4 already
        above = [os.dup2(each, 10 + place) for place, each in enumerate((its_commands, its_answers))]
        os.dup2(above[0], COMMANDS)
        os.dup2(above[1], ANSWERS)

    process = subprocess.Popen(
        command, preexec_fn=at_their_places, close_fds=False, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env=os.environ | {"HOME": str(folder)},
    )  # fmt: skip
    os.close(its_commands)
    os.close(its_answers)
    try:
        yield Browser(commands, answers)
    finally:
        process.terminate()
        process.wait(timeout=20)
        os.close(commands)
        os.close(answers)

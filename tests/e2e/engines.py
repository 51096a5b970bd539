"""Firefox over WebDriver BiDi and WebKit over WebDriver, with the few steps a walk needs.

Both are the distribution's own programs; no driver is downloaded. Each engine is a context manager
around a person in a browser of their own (a new profile, nothing kept).
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from selenium.webdriver import Remote
from selenium.webdriver.remote.client_config import ClientConfig
from selenium.webdriver.remote.remote_connection import RemoteConnection
from selenium.webdriver.remote.websocket_connection import WebSocketConnection
from selenium.webdriver.webkitgtk.options import Options
from selenium.webdriver.webkitgtk.service import Service

FIREFOX = next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)
WEBKIT_DRIVER = shutil.which("WebKitWebDriver")
MINI_BROWSER = next(Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser"), None)
WAIT_SECONDS = 20

# What is done in the page, in the page's own words. Fields are filled as a form filler does it.
FILL = """(selector, text) => { const field = document.querySelector(selector);
  field.value = text; field.dispatchEvent(new Event("input", {bubbles: true})); }"""
PRESS = "(selector) => document.querySelector(selector).click()"
READ = "() => document.body ? document.body.innerText : ''"
VALUE = "(selector) => document.querySelector(selector).value"
COUNT = "(selector) => document.querySelectorAll(selector).length"
MARK = "() => { window.stale = true; }"
START_AXE = """(tags) => { window.found = "";
  axe.run(document, {runOnly: {type: "tag", values: JSON.parse(tags)}, iframes: false}).then(
    result => { window.found = JSON.stringify(result.violations.map(
      one => one.id + ": " + one.nodes[0].target + " " + one.nodes[0].html.slice(0, 120))); }); }"""
AXE_FOUND = "() => window.found"
IS_NEW = "() => !window.stale && document.readyState === 'complete'"


class Run(Protocol):
    """Calls a function, given as source, in the page; returns what it returned."""

    def __call__(self, function: str, *arguments: str) -> Any: ...


class Person:
    """One person in one browser."""

    def __init__(self, name: str, go: Callable[[str], None], run: Run) -> None:
        """`go` opens an address and waits for it, `run` calls a function in the page."""
        self.name, self.go, self._run = name, go, run

    @property
    def text(self) -> str:
        """What the page says."""
        return str(self._run(READ))

    @property
    def url(self) -> str:
        """Where the browser is."""
        return str(self._run("() => location.href"))

    def fill(self, **fields: str) -> None:
        """Type into fields by their id."""
        for name, text in fields.items():
            self._run(FILL, f"#{name}", text)

    def value(self, selector: str) -> str:
        """Return what a field holds."""
        return str(self._run(VALUE, selector))

    def has(self, selector: str) -> bool:
        """Say whether the page has such an element."""
        return int(self._run(COUNT, selector)) > 0

    def press(self, selector: str) -> None:
        """Press a button or a link, and wait for the next page."""
        self._run(MARK)
        self._run(PRESS, selector)
        self.wait(lambda: bool(self._run(IS_NEW)), f"the page after {selector}")

    def violations(self, axe: str, tags: list[str]) -> list[str]:
        """Run axe in the page and return what it found, in one line each."""
        self._run(f"() => {{ {axe} }}")
        self._run(START_AXE, json.dumps(tags))
        self.wait(lambda: bool(self._run(AXE_FOUND)), "what axe found")
        return list(json.loads(str(self._run(AXE_FOUND))))

    def wait(self, ready: Callable[[], bool], what: str) -> None:
        """Ask again until it is so; a page that is just being changed counts as not yet."""
        until = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < until:
            try:
                if ready():
                    return
            except PageGone:
                continue
        raise AssertionError(f"{self.name}: {what} never came; the page says: {self.text}")


class PageGone(Exception):
    """The page went away while it was asked something."""


# ------------------------------------------------------------------ Firefox


@contextmanager
def firefox() -> Iterator[Person]:
    """Firefox without a window, spoken to over WebDriver BiDi: its own port, no driver between."""
    if FIREFOX is None:
        pytest.skip("no Firefox on this machine (Debian: firefox-esr)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Firefox waits a minute for pages that are still open unless told not to.
        Path(profile, "user.js").write_text(
            'user_pref("toolkit.asyncshutdown.crash_timeout", 2000);\n'
            'user_pref("browser.tabs.remote.autostart", true);\n'
        )
        command = [FIREFOX, "--headless", "--no-remote", "--profile", profile]
        process = subprocess.Popen(
            [*command, "--remote-debugging-port", "0"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        try:
            address = re.search(r"listening on (ws://\S+)", _line_with("listening", process))[1]
            socket = WebSocketConnection(f"{address}/session", WAIT_SECONDS, 0.01)
            yield _person_in_firefox(socket)
        finally:
            process.kill()
            process.wait(10)
            process.stderr.close()


def _line_with(word: str, process: subprocess.Popen) -> str:
    return next(line for line in process.stderr if word in line)


def _person_in_firefox(socket: WebSocketConnection) -> Person:
    def ask(method: str, **params: Any) -> dict:
        answer = socket.send_cmd(method, params)
        if answer["type"] == "error":
            raise PageGone(f"{method}: {answer['message']}")
        return answer["result"]

    def run(function: str, *arguments: str) -> Any:
        values = [{"type": "string", "value": each} for each in arguments]
        answer = ask(
            "script.callFunction",
            functionDeclaration=function,
            arguments=values,
            target={"context": tab},
            awaitPromise=False,
        )
        assert answer["type"] == "success", answer
        return answer["result"].get("value")

    def go(url: str) -> None:
        ask("browsingContext.navigate", context=tab, url=url, wait="complete")

    ask("session.new", capabilities={})
    tab = ask("browsingContext.create", type="tab")["context"]
    return Person("Firefox", go, run)


# ------------------------------------------------------------------ WebKit


@contextmanager
def webkit() -> Iterator[Person]:
    """WebKitGTK's small browser on a screen of its own, spoken to over WebDriver."""
    missing = [
        package
        for found, package in (
            (WEBKIT_DRIVER and MINI_BROWSER, "webkit2gtk-driver"),
            (shutil.which("Xvfb"), "xvfb"),
            (shutil.which("dbus-run-session"), "dbus-bin"),
        )
        if not found
    ]
    if missing:
        pytest.skip(f"no WebKit on this machine (Debian: {' '.join(missing)})")
    options = Options()
    options.binary_location = str(MINI_BROWSER)
    options.add_argument("--automation")
    with _screen() as environment:
        service = Service(executable_path=WEBKIT_DRIVER, env=environment)
        service.start()
        try:
            address = ClientConfig(remote_server_addr=service.service_url, timeout=WAIT_SECONDS)
            driver = Remote(RemoteConnection(client_config=address), options=options)
            yield Person("WebKit", driver.get, _runner(driver))
            driver.quit()
        finally:
            service.stop()


def _runner(driver: Remote) -> Run:
    def run(function: str, *arguments: str) -> Any:
        given = ", ".join(map(json.dumps, arguments))
        return driver.execute_script(f"return ({function})({given})")

    return run


@contextmanager
def _screen() -> Iterator[dict[str, str]]:
    """Start an X server without a monitor and a session bus; yield where to find them."""
    display = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "1280x900x24", "-nolisten", "tcp"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    bus = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield os.environ | {
            "DISPLAY": f":{display.stdout.readline().strip()}",
            "DBUS_SESSION_BUS_ADDRESS": bus.stdout.readline().strip(),
            "GDK_BACKEND": "x11",
            "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1",  # containers allow no namespaces
        }
    finally:
        for process in (bus, display):
            process.terminate()
            process.wait(10)
            process.stdout.close()

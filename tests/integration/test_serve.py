"""`phr serve` as a person runs it: a process of its own, real listeners, signals, the socket."""

import http.client
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

PASSWORD = "wombat lantern drizzle oboe"
FAST = "import phr.store.slots as s; s.calibrated = lambda seconds=0.35: s.FLOOR; "


@dataclass
class Running:
    """A running appliance, seen from outside."""

    process: subprocess.Popen[str]
    facts: dict[str, Any]
    data: Path

    def get(self, path: str, *, door: bool = False, ca: Path | None = None) -> tuple[int, str]:
        url = urlsplit(self.facts["public_url" if door else "home_url"])
        kind: Any = http.client.HTTPConnection
        options: dict[str, Any] = {"timeout": 5}
        if url.scheme == "https":
            kind = http.client.HTTPSConnection
            options["context"] = ssl.create_default_context(cafile=str(ca))
        connection = kind(url.hostname, url.port, **options)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def stop(self) -> float:
        """Send SIGTERM and return how long the stop took, in seconds."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=20)
        return time.monotonic() - began


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PHR_")}
    ports = {"PHR_PORT": "0", "PHR_PUBLIC_PORT": "0", "PHR_DEMO_PORT": "0"}
    return kept | ports | more


def command(*arguments: str) -> list[str]:
    """The command line with Argon2id at its floor: the same code, 20 times as fast."""
    return [sys.executable, "-c", FAST + "from phr.cli import main; main()", *arguments]


def phr(*arguments: str, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), input=given, env=environment(**more), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[subprocess.Popen[str]] = []

    def start_(**more: str) -> Running:
        data = tmp_path / "data"
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                command("serve", "--json", "--data", str(data)),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                env=environment(**more),
            )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (tmp_path / "log").read_text()
        return Running(process, json.loads(line), data)

    yield start_
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def running(start: Callable[..., Running]) -> Running:
    return start()


def test_the_first_start_prints_addresses_and_a_set_up_code(running: Running) -> None:
    assert running.facts["home_url"].startswith("http://127.0.0.1:")
    assert len(running.facts["setup_code"].replace("-", "")) == 12
    assert running.get("/healthz")[0] == 200
    assert running.get("/healthz", door=True)[0] == 200


def test_pages_are_not_on_the_public_listener(running: Running) -> None:
    for path in ("/", "/signin", "/setup", "/admin", "/household"):
        assert running.get(path, door=True)[0] == 404


def test_a_stop_takes_less_than_eight_seconds_while_a_caller_hangs(running: Running) -> None:
    url = urlsplit(running.facts["home_url"])
    with socket.create_connection((url.hostname, url.port)) as hanging:
        hanging.sendall(
            b"POST /setup HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\nhalf"
        )
        assert running.stop() < 8
    assert running.process.returncode == 0
    assert not (running.data / "run" / "phr.sock").exists()


def test_a_second_process_on_the_same_data_is_refused(running: Running) -> None:
    second = phr("serve", "--data", str(running.data))
    assert second.returncode == 1
    assert "already using this data folder" in second.stderr
    assert running.get("/healthz")[0] == 200


def test_an_address_in_use_is_a_sentence(running: Running, tmp_path: Path) -> None:
    port = str(urlsplit(running.facts["home_url"]).port)
    second = phr("serve", "--data", str(tmp_path / "other"), PHR_PORT=port)
    assert second.returncode == 1
    assert f"Cannot listen on 127.0.0.1 port {port}" in second.stderr


def test_only_the_owner_may_talk_to_the_control_socket(running: Running) -> None:
    mode = (running.data / "run" / "phr.sock").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_caller_of_the_control_socket_who_talks_nonsense_harms_nobody(running: Running) -> None:
    for nonsense in (b"", b"\n", b"{}\n", b'{"command": "no", "arguments": {}}\n', b"\xff" * 99):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(running.data / "run" / "phr.sock"))
            caller.sendall(nonsense)
    assert phr("account", "list", "--data", str(running.data)).returncode == 0


def test_a_socket_left_behind_by_a_killed_process_is_replaced(
    start: Callable[..., Running],
) -> None:
    first = start()
    first.process.kill()
    first.process.wait()
    assert (first.data / "run" / "phr.sock").exists()
    assert phr("account", "list", "--data", str(first.data)).returncode == 0
    second = start()
    assert second.get("/healthz")[0] == 200


def test_the_first_account_ends_the_set_up_code(start: Callable[..., Running]) -> None:
    first = start()
    made = phr("account", "create", "Ada", "--data", str(first.data), given=PASSWORD)
    assert made.returncode == 0, made.stderr
    first.stop()
    assert start().facts["setup_code"] is None


def test_one_tls_handshake_of_our_own_is_good_under_every_address(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    running = start(PHR_TLS="own")
    ca = tmp_path / "data" / "tls" / "ca.pem"
    assert running.facts["home_url"].startswith("https://")
    assert running.get("/healthz", ca=ca)[0] == 200
    assert running.get("/healthz", ca=ca, door=True)[0] == 200
    assert running.facts["ca_fingerprint"].count(":") == 31


def test_the_trust_page_is_there_before_the_first_account(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    running = start(PHR_TLS="own")
    ca = tmp_path / "data" / "tls" / "ca.pem"
    status, page = running.get("/trust", ca=ca)
    assert status == 200
    assert running.facts["ca_fingerprint"].replace(":", " ") in page
    assert "PRIVATE KEY" not in page
    assert running.get("/trust/code.svg", ca=ca)[0] == 200
    assert running.get("/trust", ca=ca, door=True)[0] == 404


def test_without_an_authority_there_is_nothing_to_trust(running: Running) -> None:
    assert running.get("/trust/code.svg")[0] == 404


@pytest.mark.parametrize("tls", ["off", "own"])
def test_the_health_check_of_the_image_needs_no_curl(
    start: Callable[..., Running], tls: str
) -> None:
    running = start(PHR_TLS=tls)
    port = str(urlsplit(running.facts["home_url"]).port)
    options = {"PHR_TLS": tls, "PHR_PORT": port}
    data = str(running.data)
    assert phr("check", "--alive", "--data", data, **options).returncode == 0
    running.stop()
    assert phr("check", "--alive", "--data", data, **options).returncode == 1


def test_the_health_check_asks_the_folder_and_not_the_port(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    """Another appliance at the port is none of this folder; another port is no failure."""
    running = start()
    port = str(urlsplit(running.facts["home_url"]).port)
    alive = ("check", "--alive", "--json", "--data")
    assert phr(*alive, str(running.data), PHR_PORT="1").returncode == 0
    for empty in (tmp_path / "nowhere", tmp_path):
        other = phr(*alive, str(empty), PHR_PORT=port)
        assert other.returncode == 1
        assert str(empty) in json.loads(other.stderr)["error"]
    assert not (tmp_path / "nowhere").exists()
    os.kill(running.process.pid, signal.SIGSTOP)  # it listens, and answers nobody
    try:
        assert phr(*alive, str(running.data), PHR_PORT=port).returncode == 1
    finally:
        os.kill(running.process.pid, signal.SIGCONT)


def test_wrong_settings_stop_the_start_with_one_sentence(tmp_path: Path) -> None:
    done = phr("serve", "--data", str(tmp_path / "d"), PHR_HOTS="1", PHR_TLS="maybe")
    assert done.returncode == 2
    assert "PHR_HOTS" in done.stderr
    assert "PHR_TLS" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "d").exists()


def test_a_folder_that_cannot_be_used_is_named_with_the_user_id(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = phr("serve", "--data", str(tmp_path / "file" / "data"))
    assert done.returncode == 2
    assert str(tmp_path / "file") in done.stderr
    assert f"user id {os.getuid()}" in done.stderr

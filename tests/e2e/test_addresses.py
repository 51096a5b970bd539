"""The same walk under other addresses: our own TLS under a name, and Caddy under a sub-path."""

import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.e2e import journey
from tests.e2e.conftest import CHROMIUM, FLAGS
from tests.e2e.house import running, with_small_record

CADDY = shutil.which("caddy")
NAME = "homeport.home"


def free_ports(number: int) -> list[int]:
    """Return ports nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def named_browser():
    """Chromium for which the household name is this machine."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    rules = f"--host-resolver-rules=MAP {NAME} 127.0.0.1"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, rules])
        yield chromium
        chromium.close()


def walk_all(browser, house) -> list[str]:
    """Walk the whole journey and return every address that was asked for."""
    context = browser.new_context(ignore_https_errors=True)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    walk = journey.new_walk(context, house.home)
    journey.set_up(walk, house.code)
    patient = journey.try_demo(walk)
    link, code = journey.make_link(walk, patient)
    elsewhere = browser.new_context(ignore_https_errors=True)
    elsewhere.on("request", lambda request: asked.append(request.url))
    doctor = elsewhere.new_page()
    journey.open_link(doctor, link, code)
    expect(doctor.locator("body")).to_contain_text("Penicillin")
    journey.stop(walk, patient)
    expect(doctor.locator("body")).not_to_contain_text("Penicillin", timeout=5000)
    assert walk.problems == []
    cookies = context.cookies() + elsewhere.cookies()
    assert cookies
    assert all(cookie["secure"] and cookie["httpOnly"] for cookie in cookies)
    context.close()
    elsewhere.close()
    return asked


def test_whole_walk_over_our_own_tls_under_a_household_name(named_browser, tmp_path):
    home, public = free_ports(2)
    settings = {
        "PHR_TLS": "own",
        "PHR_PORT": str(home),
        "PHR_PUBLIC_PORT": str(public),
        "PHR_HOME_URL": f"https://{NAME}:{home}",
        "PHR_PUBLIC_URL": f"https://{NAME}:{public}",
    }
    with running(tmp_path / "data", **settings) as house:
        asked = walk_all(named_browser, house)

        assert {urlsplit(url).scheme for url in asked} <= {"https", "data"}
        authority = next((house.data / "tls").glob("ca*.pem"))
        trusting = ssl.create_default_context(cafile=str(authority))
        with socket.create_connection(("127.0.0.1", home)) as raw:
            secured = trusting.wrap_socket(raw, server_hostname=NAME)
            assert secured.version() in {"TLSv1.2", "TLSv1.3"}
            secured.close()


def test_a_plain_address_is_named_and_everything_works_there(named_browser, tmp_path):
    home, public = free_ports(2)
    settings = {
        "PHR_INSECURE": "1",
        "PHR_PORT": str(home),
        "PHR_PUBLIC_PORT": str(public),
        "PHR_HOME_URL": f"http://{NAME}:{home}",
        "PHR_PUBLIC_URL": f"http://127.0.0.1:{public}",
    }
    with running(tmp_path / "data", **settings) as house:
        with_small_record(house, tmp_path)
        walk = journey.new_walk(named_browser.new_context(), house.home)
        page = walk.page
        journey.sign_in(page, house.home)
        banner = "copying or app install may not work"
        assert banner in page.inner_text("main")
        assert page.evaluate("isSecureContext") is False
        patient = re.search(r"/p/([0-9a-f]+)", page.url)[1]
        link, _ = journey.make_link(walk, patient)
        page.locator("[data-copy=address]").click()
        field = "[document.activeElement, getSelection()].map(e => e.value || e.toString())"
        assert link in page.evaluate(field)
        page.wait_for_function(
            "document.getElementById('status').textContent.match(/^(Copied|Selected)/)"
        )
        assert walk.problems == []


CADDYFILE = """
{{
    admin off
    auto_https disable_redirects
    skip_install_trust
    storage file_system {storage}
}}
https://{name}:{port} {{
    bind 127.0.0.1
    tls internal
    handle /health/* {{
        reverse_proxy 127.0.0.1:{home}
    }}
    handle_path /doors/* {{
        reverse_proxy 127.0.0.1:{public}
    }}
}}
"""


@contextmanager
def caddy(folder: Path, **values: object) -> Iterator[None]:
    """Run Caddy with its own local CA until the block ends."""
    file = folder / "Caddyfile"
    file.write_text(CADDYFILE.format(storage=folder / "caddy", name=NAME, **values))
    with (folder / "caddy.log").open("w") as log:
        process = subprocess.Popen(
            [CADDY, "run", "--config", str(file), "--adapter", "caddyfile"], stdout=log, stderr=log
        )
        try:
            wait_for(values["port"])
            yield
        finally:
            process.terminate()
            process.wait(10)


def wait_for(port: int) -> None:
    """Wait until somebody listens on a port."""
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"nobody listens on {port}")


def test_whole_walk_behind_a_tls_proxy_under_a_sub_path(named_browser, tmp_path):
    if CADDY is None:
        pytest.skip("no Caddy on this machine")
    home, public, port = free_ports(3)
    settings = {
        "PHR_TLS": "proxy",
        "PHR_TRUSTED_PROXIES": "127.0.0.1/32",
        "PHR_PORT": str(home),
        "PHR_PUBLIC_PORT": str(public),
        "PHR_HOME_URL": f"https://{NAME}:{port}/health",
        "PHR_PUBLIC_URL": f"https://{NAME}:{port}/doors",
    }
    with (
        running(tmp_path / "data", **settings) as house,
        caddy(tmp_path, port=port, home=home, public=public),
    ):
        asked = walk_all(named_browser, house)

        paths = {urlsplit(url).path.split("/")[1] for url in asked if not url.startswith("data:")}
        assert paths == {"health", "doors"}
        assert all(url.startswith((f"https://{NAME}:{port}/", "data:")) for url in asked)

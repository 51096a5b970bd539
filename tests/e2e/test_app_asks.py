"""A stranger's SMART app in a page of its own origin: fhirclient (npm), real Chromium, CORS.

The app is written as its documentation shows; the patient answers on our page.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e import journey
from tests.e2e.test_pages import in_every_look

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "node_modules" / "fhirclient" / "build" / "fhir-client.js"
LAUNCH = """<!doctype html><meta charset="utf-8"><title>Launch</title>
<script src="/fhir-client.js"></script><script>
const asked = new URLSearchParams(location.search)
FHIR.oauth2.authorize({
  iss: asked.get('iss'), clientId: asked.get('client'), redirectUri: '/app.html',
  scope: 'openid fhirUser launch/patient offline_access patient/*.rs', pkceMode: 'required',
})
</script>"""
APP = """<!doctype html><meta charset="utf-8"><title>App</title><pre id="said">...</pre>
<script src="/fhir-client.js"></script><script>
FHIR.oauth2.ready().then(async client => {
  const patient = await client.patient.read()
  const found = await client.request(
    `MedicationRequest?patient=${client.patient.id}`, { pageLimit: 0, flat: true })
  window.again = async () => {
    try { return 'read ' + (await client.patient.read()).id } catch (error) { return String(error) }
  }
  said.textContent = JSON.stringify({ family: patient.name[0].family, medicines: found.length })
}).catch(error => { said.textContent = 'refused: ' + error })
</script>"""


@contextmanager
def app_server() -> Iterator[str]:
    """Serve the app's two pages and its library from an origin of their own."""
    pages = {"/launch.html": LAUNCH.encode(), "/app.html": APP.encode()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            body = LIBRARY.read_bytes() if path == "/fhir-client.js" else pages.get(path, b"")
            self.send_response(200 if body else 404)
            kind = "text/javascript" if path.endswith(".js") else "text/html"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def walk(browser, house):
    """Who set the house up, with the demo record in it."""
    if not LIBRARY.is_file():
        pytest.skip("node_modules is not installed (make e2e does that)")
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    walk = journey.new_walk(context, house.home)
    journey.set_up(walk, house.code)
    yield walk
    context.close()


def answer(page: Page, do: str) -> None:
    """Answer on our page, with the password where it is asked for."""
    expect(page.locator("h1")).to_contain_text("127.0.0.1 asks to read")
    if do == "allow":
        page.locator("input[name=patient]").last.check()  # the demo record
    page.locator(f'button[name=do][value="{do}"]').click()
    confirm = page.locator('input[name="confirm.password"]')
    if do == "allow" and confirm.count():
        confirm.fill(journey.PASSWORD)
        page.locator("main button.main").click()


def test_strangers_app_reads_in_its_own_page_until_it_is_stopped(walk, house, browser):
    patient = journey.try_demo(walk)
    page = walk.page
    with app_server() as app:
        made = httpx.post(
            f"{house.public}/oauth/register",
            json={"client_name": "Growth chart", "redirect_uris": [f"{app}/app.html"]},
        )
        client = made.json()["client_id"]
        start = f"{app}/launch.html?iss={house.public}/fhir&client={client}"

        page.goto(start)
        answer(page, "refuse")
        expect(page.locator("#said")).to_contain_text("refused")
        page.goto(start)
        answer(page, "allow")
        expect(page.locator("#said")).to_contain_text('"family":"Demo"')
        medicines = int(re.search(r'"medicines":(\d+)', page.inner_text("#said"))[1])
        assert medicines > 0
        assert page.evaluate("again()").startswith("read ")

        other = page.context.new_page()
        other.goto(f"{house.home}/p/{patient}/grants")
        expect(other.locator("main")).to_contain_text("Growth chart")
        with other.expect_navigation():
            other.locator("button.stop").first.click()
        assert not page.evaluate("again()").startswith("read ")


def test_pages_of_apps_are_accessible_in_every_look(walk, house):
    journey.try_demo(walk)
    made = httpx.post(
        f"{house.public}/oauth/register",
        json={"client_name": "Growth chart", "redirect_uris": ["https://app.example.org/back"]},
    )
    door = httpx.get(
        f"{house.public}/oauth/authorize",
        params={
            "response_type": "code",
            "client_id": made.json()["client_id"],
            "redirect_uri": "https://app.example.org/back",
            "scope": "openid launch/patient offline_access patient/*.rs patient/Observation.rs",
            "state": "0123456789abcdef0123456789abcdef",
            "aud": f"{house.public}/fhir",
            "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
            "code_challenge_method": "S256",
        },
    )
    for address in (door.headers["location"], f"{house.home}/apps"):
        walk.page.goto(address)
        assert in_every_look(walk.page, only_light=False) == [], address
    assert walk.problems == []

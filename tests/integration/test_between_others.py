"""Three appliances: the third is the patient's app between two others, as in pattern 2.

Issue 4 item 4, third role: it signs in at both, proposes a Consent at one, has the other fetch,
lists and stops it. All are real processes on loopback; nothing is configured but addresses.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.cast import PASSWORDS, Cast, csrf_in
from tests.e2e.house import running
from tests.integration.test_consent_between import Side, asked_now, free_port, sides

__all__ = ["sides"]  # the fixture


@pytest.fixture
def third(
    sides: tuple[Side, Side], cast_at_home: tuple[Path, Cast], tmp_path: Path
) -> Iterator[Side]:
    """A third appliance, on which Ada keeps a record of her own, empty."""
    folder, cast = cast_at_home
    data, port = tmp_path / "third" / "data", free_port()
    shutil.copytree(folder, data, ignore=shutil.ignore_patterns("run"))
    lan = ",".join(urlsplit(each.house.public).netloc for each in sides)
    settings = {"PHR_DEMO": "0", "PHR_LAN_HOSTS": lan, "PHR_PUBLIC_PORT": str(port)}
    with ExitStack() as stack:
        house = stack.enter_context(running(data, **settings))
        browser = stack.enter_context(httpx.Client(base_url=house.home, timeout=30))
        form = {
            "name": "Ada",
            "password": PASSWORDS["Ada"],
            "csrf": csrf_in(browser.get("/signin").text),
        }
        assert browser.post("/signin", data=form, headers={"origin": house.home}).status_code == 303
        yield Side(house, "Ada", cast.patients["Ada"], browser)


def signed_in_at(third: Side, other: Side) -> str:
    """Have Ada add a server on the third one, and sign in there as its person would."""
    page = f"/p/{third.patient_id}/between"
    added = third.submit(page, page, do="add", base_url=f"{other.house.public}/fhir")
    assert added.status_code == 303, added.text
    leaving = third.browser.get(added.headers["location"]).text
    found = re.findall(rf'href="({re.escape(other.house.public)}/oauth/authorize[^"]+)"', leaving)
    door = httpx.get(found[0].replace("&amp;", "&"))
    assert door.status_code == 303, door.text
    back = other.answer(urlsplit(door.headers["location"]).path, patient=other.patient_id)
    landed = third.browser.get(back.headers["location"], follow_redirects=True)
    assert landed.status_code == 200, landed.text
    return re.findall(r"/connections/(\d+)", added.headers["location"])[0]


def test_third_appliance_has_one_server_fetch_from_another_and_stops_it(
    sides: tuple[Side, Side], third: Side
):
    source, target = sides
    page = f"/p/{third.patient_id}/between"
    giving, fetching = signed_in_at(third, source), signed_in_at(third, target)
    asked_now(third, f"/p/{third.patient_id}/connections/{giving}")

    started = third.submit(
        page,
        page,
        do="start",
        giving=giving,
        fetching=fetching,
        part="problems",
        days="30",
        **{"confirm.password": PASSWORDS["Ada"]},
    )
    assert started.status_code == 303, started.text
    assert "awaiting-approval" in third.browser.get(started.headers["location"]).text

    base = f"/p/{source.patient_id}/consents"
    (proposal,) = source.found(rf'href="({base}/\w+)"', base)
    source.answer(proposal, days="")
    inside = f"/p/{target.patient_id}"
    (fetch,) = target.found(rf'action="({inside}/fetches/\w+)"', f"{inside}/consents")
    agreed = target.submit(fetch, f"{inside}/consents", do="allow")
    assert agreed.status_code == 303, agreed.text
    connection = urlsplit(agreed.headers["location"]).path
    asked_now(target, connection)
    assert target.says("Asthma")

    there = third.browser.get(f"{page}?at={giving}").text
    assert "active" in there
    consent_id = re.findall(r'name="consent" value="(\w+)"', there)[0]
    authorization = re.findall(r'name="authorization" value="(\w+)"', there)[0]
    again = third.submit(
        page,
        page,
        do="start",
        giving=giving,
        fetching=fetching,
        consent=consent_id,
        **{"confirm.password": PASSWORDS["Ada"]},
    )
    assert (again.status_code, "named for this Consent already" in again.text) == (422, True)

    stopped = third.submit(
        page, page, do="stop", giving=giving, consent=consent_id, authorization=authorization
    )
    assert stopped.status_code == 303, stopped.text
    assert "The consent there has ended" in asked_now(target, connection)
    log = third.browser.get(f"/p/{third.patient_id}/activity").text
    assert "to let another server fetch" in log
    assert "stopped what another server may fetch" in log


def test_servers_must_be_two_and_let_this_homeport_ask(sides: tuple[Side, Side], third: Side):
    source, _ = sides
    page = f"/p/{third.patient_id}/between"
    giving = signed_in_at(third, source)
    confirm = {"confirm.password": PASSWORDS["Ada"]}

    same = third.submit(page, page, do="start", giving=giving, fetching=giving, **confirm)
    none = third.submit(page, page, do="start", giving=giving, fetching="99", **confirm)
    bare = third.submit(page, page, do="add", base_url="nonsense")

    assert [each.status_code for each in (same, none, bare)] == [422, 422, 422]
    assert third.browser.get(f"{page}?at=99").status_code == 404

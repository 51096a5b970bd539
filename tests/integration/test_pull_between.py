"""Two appliances: one fetches from the other as any app of its patient would, until it is stopped.

Issue 4, acceptance 6 (app-managed pull): nothing is configured but the other one's address.
"""

import re
from urllib.parse import urlsplit

import httpx

from tests.integration.test_consent_between import Side, asked_now, sides

__all__ = ["sides"]  # the fixture


def connected(source: Side, target: Side) -> str:
    """Connect the source by its address alone and sign in there; return the connection's page."""
    page = f"/p/{target.patient_id}/connections/add"
    where = f"{source.house.public}/fhir"
    added = target.submit(page, page, base_url=where, client_id="", audience="exact")
    assert added.status_code == 303, added.text
    leaving = target.browser.get(added.headers["location"]).text
    found = re.findall(rf'href="({re.escape(source.house.public)}/oauth/authorize[^"]+)"', leaving)
    door = httpx.get(found[0].replace("&amp;", "&"))
    assert door.status_code == 303, door.text
    back = source.answer(urlsplit(door.headers["location"]).path, patient=source.patient_id)
    landed = target.browser.get(back.headers["location"], follow_redirects=True)
    assert landed.status_code == 200, landed.text
    (number,) = set(re.findall(r"/connections/(\d+)", added.headers["location"]))
    return f"/p/{target.patient_id}/connections/{number}"


def test_target_fetches_as_an_app_with_nothing_but_an_address(sides: tuple[Side, Side]):
    source, target = sides
    connection = connected(source, target)
    asked_now(target, connection)
    assert target.says("Asthma")
    base = f"/p/{source.patient_id}/grants"
    assert "Homeport" in source.browser.get(base).text

    (stop,) = set(source.found(rf'action="({base}/\w+/stop)"', base))
    assert source.submit(stop, base).status_code == 303
    assert "sign in" in asked_now(target, connection).lower()
    assert target.says("Asthma")  # what was fetched stays

"""Two appliances and a Permission Ticket: one makes it, the other fetches with it until it ends.

Issue 4 item 5 and acceptance 6 (ticket pull); nothing is configured by hand but addresses. Both are
real processes on loopback.
"""

import html
import re

from phr import ids
from tests.cast import PASSWORDS, csrf_in
from tests.integration.test_consent_between import Side, asked_now, sides

__all__ = ["sides"]  # the fixture


def made(source: Side, target: Side, **changed: str) -> str:
    """Make a ticket at the source for the server at the target's address; return it."""
    page = f"/p/{source.patient_id}/share"
    form = {
        "csrf": csrf_in(source.browser.get(page).text),
        "do": "ticket",
        "what": "primary",
        "hours": "168",
        "once": ids.new_id(),
        "server": target.house.public,
        "confirm.password": PASSWORDS[source.person],
    }
    answer = source.browser.post(page, data=form | changed, headers={"origin": source.house.home})
    assert answer.status_code == 200, answer.text
    return html.unescape(re.findall(r"<textarea[^>]*readonly[^>]*>([^<]+)<", answer.text)[0])


def used(target: Side, ticket: str, do: str = "fetch") -> tuple[int, str]:
    """Have the person at the target use a ticket; return the status, and path or page."""
    page = f"/p/{target.patient_id}/ticket"
    form = {"ticket": ticket, "do": do, "confirm.password": PASSWORDS[target.person]}
    answer = target.submit(page, page, **form)
    return answer.status_code, answer.headers.get("location", answer.text)


def test_target_fetches_with_a_ticket_until_it_is_stopped(sides: tuple[Side, Side]):
    source, target = sides
    ticket = made(source, target)

    status, page = used(target, ticket, do="look")
    assert status == 200
    assert "This Homeport" in page
    assert f"{source.house.public}/fhir" in page
    assert not target.says("Asthma")  # nothing was asked yet

    status, connection = used(target, ticket)
    assert status == 303, connection
    asked_now(target, connection)
    assert target.says("Asthma")
    assert "connected and may read from now on." in log_of(source)

    base = f"/p/{source.patient_id}/grants"
    (grant_id,) = set(source.found(rf"{base}/(\w{{32}})", base))
    assert source.submit(f"{base}/{grant_id}/stop", base).status_code == 303
    assert "The ticket has run out, or it was stopped there" in asked_now(target, connection)
    assert target.says("Asthma")  # what was fetched stays


def test_target_changes_nothing_with_a_ticket_that_is_not_its_own(sides: tuple[Side, Side]):
    source, target = sides
    theirs = made(source, source)  # for the key of the source itself
    altered = made(source, target)[:-6] + "AAAAAA"

    for ticket, words in ((theirs, "for another server than this"), (altered, "gives nothing for")):
        status, page = used(target, ticket)
        assert status == 422
        assert words in page
    assert used(target, "nonsense")[0] == 422
    assert not target.says("Asthma")


def log_of(side: Side) -> str:
    return side.browser.get(f"/p/{side.patient_id}/activity").text

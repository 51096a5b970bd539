"""A patient's app has another server send records to a Direct address, sees it, and stops it.

Issue 4 item 4 (third role) and issue 5 item 5. Two appliances as `phr serve` runs them: the app is
the other one's page “Between two servers”; Knot DNS names the doctor, a mail server takes the mail.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from phr.sharing import asking
from tests.cast import PASSWORDS, Cast, csrf_in
from tests.e2e.house import command_line, running
from tests.fixtures_direct import Authority, Mailbox, cert_line, der, knot, mailbox
from tests.fixtures_sharing import condition, lab, recent
from tests.integration.test_between_others import signed_in_at
from tests.integration.test_consent_between import Side, asked_now, free_port
from tests.integration.test_consents import a_consent, of, permit

DOCTOR = "dr.pell@direct.clinic.test"
OFTEN = "from phr import jobs; jobs.EVERY |= {'deliveries': 1}; from phr.cli import main; main()"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Mailbox]:
    with mailbox(Mailbox()) as made:
        yield made


def started(
    stack: ExitStack, home: tuple[Path, Cast], folder: Path, person: str, **settings: str
) -> Side:
    """Start an appliance on a copy of the cast's folder, and sign a person in."""
    data = folder / "data"
    shutil.copytree(home[0], data, ignore=shutil.ignore_patterns("run"))
    house = stack.enter_context(running(data, program=("-c", OFTEN), PHR_DEMO="0", **settings))
    browser = stack.enter_context(httpx.Client(base_url=house.home, timeout=30))
    form = {"name": person, "password": PASSWORDS[person]}
    form["csrf"] = csrf_in(browser.get("/signin").text)
    assert browser.post("/signin", data=form, headers={"origin": house.home}).status_code == 303
    return Side(house, person, home[1].patients[person], browser)


@pytest.fixture
def sides(
    cast_at_home: tuple[Path, Cast], tmp_path: Path, box: Mailbox
) -> Iterator[tuple[Side, Side]]:
    """The source, where Ada has records and a Direct address; and Eve's, the patient's app."""
    root = Authority("Clinic root", number=1000)
    lines = cert_line("dr.pell.direct.clinic.test", der(root.issue(DOCTOR, number=1)))
    port = free_port()
    with ExitStack() as stack:
        host, at = stack.enter_context(knot(tmp_path / "knot", "clinic.test", lines))
        source = started(
            stack, cast_at_home, tmp_path / "one", "Ada",
            PHR_NAME_SERVERS=f"{host}:{at}",
            PHR_LAN_HOSTS=f"localhost:{box.port}",
            PHR_PUBLIC_PORT=str(port),
        )  # fmt: skip
        app = started(
            stack, cast_at_home, tmp_path / "app", "Eve",
            PHR_LAN_HOSTS=f"127.0.0.1:{port}",
            PHR_PUBLIC_PORT=str(free_port()),
        )  # fmt: skip
        records = [condition("c1", "Asthma", onsetDateTime="2001"), lab("o1", recent(10))]
        file = tmp_path / "records.ndjson"
        file.write_text("".join(json.dumps(each) + "\n" for each in records))
        command_line(source.house, "import", str(file), "--patient", "Ada")
        page = f"/p/{source.patient_id}/direct"
        confirm = {"confirm.password": PASSWORDS["Ada"]}
        form = {"address": "ada@home.test", "mode": "sta", "host": "localhost"}
        made = source.submit(page, page, port=str(box.port), **form, **confirm)
        assert made.status_code == 303, made.text
        pem = {"file": ("r.pem", root.certificate.public_bytes(Encoding.PEM), "text/plain")}
        trusted = source.browser.post(
            f"{page}/trust",
            data={"csrf": csrf_in(source.browser.get(page).text), "direction": "out"} | confirm,
            files=pem,
            headers={"origin": source.house.home},
        )
        assert trusted.status_code == 303, trusted.text
        yield source, app


def approved(source: Side) -> None:
    """Approve at the source what waits there."""
    base = f"/p/{source.patient_id}/consents"
    (path,) = source.found(rf'href="({base}/\w+)"', base)
    assert f"to {DOCTOR}" in source.browser.get(path).text
    source.answer(path, days="")


def test_homeport_as_app_has_a_server_send_and_stops_it(sides: tuple[Side, Side], box: Mailbox):
    source, app = sides
    page = f"/p/{app.patient_id}/between"
    confirm = {"confirm.password": PASSWORDS["Eve"]}
    giving = signed_in_at(app, source)
    asked_now(app, f"/p/{app.patient_id}/connections/{giving}")

    bad = app.submit(page, page, do="send", giving=giving, to="nobody", part="problems", **confirm)
    assert (bad.status_code, "looks like name@" in bad.text) == (422, True)
    strange = {"do": "send", "giving": giving, "to": "x@direct.clinic.test", "part": "problems"}
    refused = app.submit(page, page, **strange, **confirm)
    assert (refused.status_code, "No certificate that the patient trusts" in refused.text) == (
        422,
        True,
    )
    there = app.browser.get(f"{page}?at={giving}").text
    (consent_id,) = set(re.findall(r'name="consent" value="(\w+)"', there))

    chosen = {"do": "send", "giving": giving, "consent": consent_id, "to": DOCTOR}
    asked = app.submit(page, page, **chosen, **confirm)
    assert asked.status_code == 303, asked.text
    assert "awaiting-approval" in app.browser.get(asked.headers["location"]).text
    assert box.got == []

    approved(source)
    (mail,) = box.wait()
    assert mail.rcpt_tos == [DOCTOR]
    assert b"Asthma" not in mail.content  # sealed for the doctor
    there = app.browser.get(asked.headers["location"]).text
    assert f"To {DOCTOR}: active" in there
    assert "by Direct mail" in source.browser.get(f"/p/{source.patient_id}/grants").text

    stop = {"do": "halt", "giving": giving, "consent": consent_id, "to": DOCTOR}
    assert app.submit(page, page, **stop).status_code == 303
    assert DOCTOR not in app.browser.get(asked.headers["location"]).text
    log = app.browser.get(f"/p/{app.patient_id}/activity").text
    assert f"to send records to {DOCTOR}" in log
    assert f"sends to {DOCTOR}" in log


def test_app_starts_and_lists_and_stops_a_push_at_a_running_appliance(
    sides: tuple[Side, Side], box: Mailbox
):
    source, _ = sides
    source.let_in(asking.PUSH)
    asked = {"type": "deny", "provision": [permit("Condition")]}
    made = source.call("Consent", a_consent(source.local_id, provision=asked))
    consent_id = made.json()["id"]
    named = of({"name": "address", "valueString": DOCTOR})

    assert source.call(f"Consent/{consent_id}/$pushStart", named).status_code == 202
    approved(source)
    box.wait()
    told = source.call(f"Consent/{consent_id}/$listPush").text
    assert (DOCTOR in told, '"active"' in told) == (True, True)

    stopped = source.call(f"Consent/{consent_id}/$pushStop", named)
    assert stopped.status_code == 200, stopped.text
    assert source.call(f"Consent/{consent_id}/$pushStop", named).status_code == 404
    late = condition("c9", "Later", onsetDateTime=recent(1))
    file = source.house.data / "late.ndjson"
    file.write_text(json.dumps(late) + "\n")
    command_line(source.house, "import", str(file), "--patient", "Ada")
    assert len(box.got) == 1

"""Figures of the FHIR API over HTTP: a running `phr serve`, asked over loopback as an app would.

Told by the clock on the wall, as an app feels it. What needs no socket is in `phr.bench.doors`.
"""

import hashlib
import http.client
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from urllib.parse import urlencode, urlsplit

from phr import clock, ids
from phr.appliance import Appliance
from phr.bench import corpus, doors, house, imports
from phr.bench.pages import PEOPLE, Server, Stage, running
from phr.bench.row import Row
from phr.fhir.labels import Label
from phr.settings import Settings
from phr.sharing import asking, authorization, clients, search
from phr.sharing.addresses import TOKEN
from phr.sharing.authorization import Answered, Asked, Confirmed
from phr.sharing.clients import Registration
from phr.sharing.grants import StepUp
from phr.store import accounts
from phr.store.vault import Vault

RECORDS = 10_000
CODES = 20  # each is good for 60 seconds, the start of the server included
LEADS_TO = "https://app.example/back"
VERIFIER = "v" * 43


def asked(quick: bool) -> list[Row]:
    """Measure an app's first page, and whether time tells what is hidden from what is not there."""
    with TemporaryDirectory() as name:
        appliance = Appliance.open(Settings(data=Path(name) / "data"))
        try:
            stage, vault = _stage(appliance, RECORDS // 10 if quick else RECORDS)
            app, codes = _codes(vault)
            token, hidden = _narrow(vault)
        finally:
            appliance.close()
        with running(stage) as server:
            first = [_first_page(server, app, code) for code in codes]
            rows = [Row("apps.first_page", median(first) * 1000, "ms", None, None, "<= 50", "")]
            return [*rows, *_alike(server, token, hidden, 200 if quick else 1000)]


def _stage(appliance: Appliance, count: int) -> tuple[Stage, Vault]:
    at = appliance.house, appliance.vaults
    account = accounts.create_account(at[0], "Bench", ids.new_secret(), administrator=True)
    patient = accounts.create_patient(
        *at, name="Bench", colour=1, account_id=account, role="self", opens_by_itself=True
    )
    vault = appliance.vault(patient)
    imports.pages(vault, house.connection(vault), [*imports.items(count)])
    key = appliance.vaults.path(patient), vault.key
    return Stage(appliance.settings.data, patient, "", [], [], key), vault


# ------------------------------------------------------------------ code, token, first page


def _codes(vault: Vault) -> tuple[str, list[str]]:
    """Register an app; return its id and codes as a patient's consent gives them."""
    wishes = asking.read("launch/patient patient/*.rs")
    says = Registration("Bench", (LEADS_TO,), None, None, str(wishes))
    app = clients.register(vault.house, says, by="bench")
    digest = hashlib.sha256(VERIFIER.encode()).digest()
    challenge = urlsafe_b64encode(digest).decode().rstrip("=")
    request = Asked(app, LEADS_TO, wishes, asking.Wishes(), "state", challenge, None, None)
    now = clock.now()
    answered = Answered(wishes, Label.NONE, None, now + timedelta(days=1))
    step_up = StepUp("bench", "password", now)
    return app.id, [
        authorization.allow(
            vault, request, answered, Confirmed(ids.new_id(), step_up, "shown", PEOPLE, now)
        )
        for _ in range(CODES)
    ]


def _first_page(server: Server, app: str, code: str) -> float:
    """Return the seconds from the code to the first page of data, over one connection."""
    line = _line(server)
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": LEADS_TO,
        "client_id": app,
        "code_verifier": VERIFIER,
    }
    begin = time.perf_counter()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    line.request("POST", TOKEN, urlencode(form), kind)
    token = json.loads(_read(line, HTTPStatus.OK))["access_token"]
    line.request("GET", "/fhir/Observation?_count=50", headers=_bearer(token))
    _read(line, HTTPStatus.OK)
    took = time.perf_counter() - begin
    line.close()
    return took


# ------------------------------------------------------------------ hidden or not there


def _narrow(vault: Vault) -> tuple[str, list[str]]:
    """Return a token of a grant that takes away every condition, and the ids of these."""
    whole = doors.read_by(vault, doors.token_for(vault, doors.unfiltered()))
    found = [record.local_id for record, _ in whole.found(search.Search("Condition", ()))]
    narrow = replace(doors.unfiltered(), excluded=frozenset(found))
    return doors.token_for(vault, narrow).text, found


def _alike(server: Server, token: str, hidden: list[str], times: int) -> Iterator[Row]:
    """Ask by id, in turn and by chance first one or the other (issue 4, acceptance 4)."""
    line, chance = _line(server), Random(corpus.SEED)
    took: dict[bool, list[int]] = {True: [], False: []}
    for number in range(times + 20):
        for is_hidden in chance.sample((True, False), 2):
            name = chance.choice(hidden) if is_hidden else f"{chance.getrandbits(64):016x}"
            begin = time.perf_counter_ns()
            line.request("GET", f"/fhir/Condition/{name}", headers=_bearer(token))
            _read(line, HTTPStatus.NOT_FOUND)
            if number >= 20:  # the first ones find nothing warm
                took[is_hidden].append(time.perf_counter_ns() - begin)
    yield from doors.apart("apps.hidden", took)


# ------------------------------------------------------------------ small parts


def _line(server: Server) -> http.client.HTTPConnection:
    parts = urlsplit(server.public)
    line = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    line.connect()
    return line


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Accept": "application/fhir+json"}


def _read(line: http.client.HTTPConnection, wanted: HTTPStatus) -> bytes:
    answer = line.getresponse()
    body = answer.read()
    if answer.status != wanted:
        raise RuntimeError(f"{answer.status} instead of {wanted.value}")
    return body

"""This Homeport as the patient's app between two other servers: one gives, the other fetches.

Pattern 2 of the connectathon of 2017, the app's side (spec/sharing.md §9.1): a Consent is proposed
or chosen at one, that one is told which server it is for, and the other is asked to fetch. Both ask
their patient themselves; nothing of this record leaves by it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.orm import Session

from phr import clock, ids, oauth, pull
from phr.connectors.base import Cursor
from phr.errors import Conflict, InvalidInput, NeedsReauthorisation
from phr.fhir import document
from phr.http import SMALL, Http
from phr.oauth import Client, Credentials, Endpoint
from phr.sharing import asking, consent, servers
from phr.sharing.consent import FETCHING
from phr.sharing.gate import Terms
from phr.sharing.provision import Provision, rules_for
from phr.sharing.recipients import one_line
from phr.store import audit, connections
from phr.store.models import Connection, ConnectionState
from phr.store.vault import Vault

SCOPES: Final = " ".join(
    ("launch/patient", "offline_access", "patient/Patient.rs", *asking.ERRANDS)
)
FHIR_JSON: Final = "application/fhir+json"
WHO: Final = {"system": consent.RESOURCE_TYPES, "code": "Patient"}
MOST_SHOWN: Final = 20  # Consents of one server
LONGEST: Final = 300  # characters of what another server says
BUSY: Final = "It is just being fetched from there. Please try again in a moment."
NO_PUSH: Final = "That server does not offer to send, or you did not allow it there."
NOT_LET: Final = "That server does not let this Homeport ask. Sign in there again and allow it."


@dataclass(frozen=True, slots=True)
class Place:
    """A server where the patient let this Homeport run errands: ask to share, fetch or send."""

    id: int
    name: str
    base_url: str
    address: str  # where its public keys lie: its issuer, as other servers know it
    may_give: bool
    may_fetch: bool
    may_push: bool


@dataclass(frozen=True, slots=True)
class Receiver:
    """A server that was named for a Consent there, and how that stands, as that server says."""

    authorization: str
    address: str
    status: str

    @property
    def name(self) -> str:
        """What a person tells it by."""
        return servers.shown(self.address)


@dataclass(frozen=True, slots=True)
class Pushed:
    """A Direct address that a server there sends to, and how that stands, as that server says."""

    push: str
    address: str
    status: str
    sent: str


@dataclass(frozen=True, slots=True)
class Listed:
    """One Consent at another server: what it gives, who may fetch and what is sent under it."""

    id: str
    status: str
    words: tuple[str, ...]  # none where it cannot be read here
    receivers: tuple[Receiver, ...]
    pushes: tuple[Pushed, ...]


def places(session: Session) -> list[Place]:
    """Return the servers that let this Homeport run errands, oldest first."""
    found = []
    for row in connections.listed(session, kind="smart"):
        if row.state != ConnectionState.ACTIVE or not row.credentials:
            continue
        given = set(Credentials.from_json(row.credentials).scope.split())
        known = {asking.OLDER.get(each, each) for each in given}
        if known & asking.ERRANDS.keys():
            found.append(_place(row, known))
    return found


def _place(row: Connection, given: set[str]) -> Place:
    address = Endpoint.from_json(row.endpoint).issuer or row.base_url.removesuffix("/fhir")
    return Place(
        row.id,
        row.name,
        row.base_url,
        address,
        may_give=asking.MANAGE in given,
        may_fetch=asking.CONNECT in given,
        may_push=asking.PUSH in given,
    )


# ------------------------------------------------------------------ what stands there


def listed(vault: Vault, http: Http, place: Place) -> list[Listed]:
    """Return the Consents that this Homeport proposed there. Raises InvalidInput, NetError."""
    bundle = _ask(vault, http, place, "Consent")
    entries = bundle.get("entry", [])
    found = [each.get("resource") for each in entries if isinstance(each, dict)]
    return [
        _listed(vault, http, place, each)
        for each in found[:MOST_SHOWN]
        if isinstance(each, dict) and oauth.FHIR_ID.match(str(each.get("id")))
    ]


def _listed(vault: Vault, http: Http, place: Place, said: Mapping[str, Any]) -> Listed:
    subject = said.get("patient")
    reference = str(subject.get("reference")) if isinstance(subject, dict) else ""
    try:
        patient_id = reference.rpartition("/")[2]
        asked = consent.read(dict(said), patient_id=patient_id, now=clock.now())
        words = tuple(part.line.words for part in asked.parts)
    except InvalidInput:
        words = ()
    receivers = tuple(
        Receiver(named.get("authorization", ""), named.get("app-id", ""), named.get("status", ""))
        for named in (
            _tokens(vault, http, place, said, "$authorizations") if place.may_give else ()
        )
    )
    pushes = tuple(
        Pushed(*(named.get(name, "") for name in ("push", "address", "status", "sent")))
        for named in (_tokens(vault, http, place, said, "$listPush") if place.may_push else ())
    )
    status = one_line(str(said.get("status")), limit=40)
    return Listed(str(said["id"]), status, words, receivers, pushes)


def _tokens(
    vault: Vault, http: Http, place: Place, said: Mapping[str, Any], operation: str
) -> list[dict[str, str]]:
    """Return the `token` parts that an operation of a Consent there tells."""
    told = _ask(vault, http, place, f"Consent/{said['id']}/{operation}")
    return [_values(each.get("part")) for each in _parameters(told) if each.get("name") == "token"]


# ------------------------------------------------------------------ starting and stopping


def propose(
    vault: Vault,
    http: Http,
    place: Place,
    parts: Sequence[str],
    ends_at: datetime,
    *,
    whom: str,
    now: datetime,
) -> str:
    """Propose a Consent there for kinds of records (`provision.PARTS`); return its id there."""
    rules = rules_for(parts, days=None, now=now)
    if not rules:
        raise InvalidInput("Choose at least one kind of record.")
    with vault.read() as session:
        patient = connections.get(session, place.id).remote_patient or ""
    terms = Terms(ids.new_id(), "", whom, "app", "PATRQT", None, "", now, ends_at, FETCHING)
    plain = tuple(dict.fromkeys(replace(rule, without=()) for rule in rules))
    said = dict(consent.resource(terms, Provision(plain), patient))
    first = said["provision"]["provision"][0]["class"]
    first.append(WHO)  # without it nobody there knows whose records they are
    del said["id"]
    made = _ask(vault, http, place, "Consent", said)
    if not oauth.FHIR_ID.match(str(made.get("id"))):
        raise InvalidInput("The server did not say which Consent it made.")
    return str(made["id"])


def start(
    vault: Vault,
    http: Http,
    giving: Place,
    fetching: Place,
    consent_id: str,
    *,
    actor: Mapping[str, Any],
) -> None:
    """Name the fetching server for a Consent, and ask it to fetch under it.

    Each of the two then asks its patient. Raises InvalidInput, in words, where either refuses.
    """
    if giving.id == fetching.id:
        raise InvalidInput("Choose two different servers.")
    named = {"resourceType": "Parameters", "parameter": [
        {"name": "client", "valueUri": fetching.address},
    ]}  # fmt: skip
    _ask(vault, http, giving, f"Consent/{consent_id}/$authorize", named)
    asked = {"resourceType": "Parameters", "parameter": [
        {"name": "url", "valueUri": giving.base_url},
        {"name": "consent", "valueString": consent_id},
    ]}  # fmt: skip
    _ask(vault, http, fetching, "$connect", asked)
    _note(vault, "between.started", actor, giving)


def stop(
    vault: Vault,
    http: Http,
    giving: Place,
    consent_id: str,
    authorization: str,
    *,
    actor: Mapping[str, Any],
) -> None:
    """End there what one server may fetch under a Consent. Raises InvalidInput, NetError."""
    named = {"resourceType": "Parameters", "parameter": [
        {"name": "authorization", "valueString": authorization},
    ]}  # fmt: skip
    _ask(vault, http, giving, f"Consent/{consent_id}/$revokeAuthorization", named)
    _note(vault, "between.stopped", actor, giving)


def send(
    vault: Vault,
    http: Http,
    giving: Place,
    consent_id: str,
    address: str,
    *,
    actor: Mapping[str, Any],
) -> None:
    """Ask a server to send what a Consent there covers to a Direct address, now and from now on.

    It then asks its patient. Raises InvalidInput, in words, where it refuses.
    """
    named = {"resourceType": "Parameters", "parameter": [
        {"name": "address", "valueString": address},
    ]}  # fmt: skip
    _ask(vault, http, giving, f"Consent/{consent_id}/$pushStart", named)
    _note(vault, "between.sending", actor, giving, to=address)


def stop_sending(
    vault: Vault,
    http: Http,
    giving: Place,
    consent_id: str,
    address: str,
    *,
    actor: Mapping[str, Any],
) -> None:
    """End there what is sent to an address under a Consent. Raises InvalidInput, NetError."""
    named = {"resourceType": "Parameters", "parameter": [
        {"name": "address", "valueString": address},
    ]}  # fmt: skip
    _ask(vault, http, giving, f"Consent/{consent_id}/$pushStop", named)
    _note(vault, "between.halted", actor, giving, to=address)


def _note(vault: Vault, event: str, actor: Mapping[str, Any], place: Place, **detail: str) -> None:
    with vault.write() as session:
        audit.append(session, vault, event, actor, connection=place.id, **detail)


# ------------------------------------------------------------------ one request


def _ask(
    vault: Vault, http: Http, place: Place, path: str, body: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    """Ask a server for the patient, with the token of its connection, and return what it said."""
    url = f"{place.base_url.rstrip('/')}/{path}"
    purse = _purse(vault, http, place.id)
    headers = {"accept": FHIR_JSON}
    try:
        token = purse.current()
    except NeedsReauthorisation as problem:
        raise InvalidInput(problem.sentence) from None
    if body is None:
        answer = http.get(url, bearer=token, origin=place.base_url, headers=headers, limits=SMALL)
    else:
        answer = http.post(
            url,
            document.dumps(body),
            bearer=token,
            origin=place.base_url,
            headers=headers | {"content-type": FHIR_JSON},
            limits=SMALL,
        )
    try:
        said = json.loads(answer.body) if answer.body else {}
    except (ValueError, RecursionError):
        said = {}
    found: Mapping[str, Any] = said if isinstance(said, dict) else {}
    if answer.status in {401, 403}:
        raise InvalidInput(NOT_LET)
    if answer.status not in {200, 201, 202}:
        raise InvalidInput(f"{place.name} refused: {_reason(found)}")
    return found


def _purse(vault: Vault, http: Http, connection_id: int) -> pull.Purse:
    """Return the tokens of a connection. Raises Conflict while it is being fetched from.

    Two who renew at once would use one refresh token twice, which ends the permission there.
    """
    with vault.read() as session:
        row = connections.get(session, connection_id)
        if row.claimed_by is not None:
            raise Conflict(BUSY)
        job = pull.Job(
            connection_id=row.id,
            kind=row.kind,
            pull_id=0,
            full=False,
            resumed=False,
            base_url=row.base_url,
            patient=row.remote_patient or "",
            endpoint=Endpoint.from_json(row.endpoint),
            client=pull.with_key(vault, Client.from_json(row.client)),
            credentials=Credentials.from_json(row.credentials),
            cursor=Cursor(),
            interval=timedelta(hours=row.interval_hours),
            failures=0,
        )
    return pull.Purse(vault, job, http)


def _reason(said: Mapping[str, Any]) -> str:
    """Return what an OperationOutcome says, as one short line."""
    issues = said.get("issue")
    first = issues[0] if isinstance(issues, list) and issues else {}
    words = first.get("diagnostics") if isinstance(first, dict) else None
    return one_line(words, limit=LONGEST) if isinstance(words, str) else "it did not say why."


def _parameters(said: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed_ = said.get("parameter")
    return [each for each in listed_ if isinstance(each, dict)] if isinstance(listed_, list) else []


def _values(parts: Any) -> dict[str, str]:
    """Return the named values of the parts of a parameter, as short lines."""
    return {
        str(part.get("name")): one_line(str(value), limit=LONGEST)
        for part in (parts if isinstance(parts, list) else ())
        if isinstance(part, dict)
        for key, value in part.items()
        if key.startswith("value")
    }

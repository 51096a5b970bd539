"""SMART Permission Tickets: a grant in a form that travels, for one server and its one key.

The draft changes often; what of it is understood lives here alone: how a ticket is written, how one
that is shown again is judged, and the list of those that were stopped. What a token for it may
read, and whether its grant stands, is asked elsewhere at every request.
"""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy.orm import Session

from phr import clock, ids, jwt
from phr.errors import InvalidInput, TrustError
from phr.fhir import references
from phr.sharing import asking, clients, consent, grants, handles, recipients
from phr.sharing.addresses import Addresses
from phr.sharing.asking import Line, Wishes
from phr.sharing.clients import Registration
from phr.sharing.grants import StepUp
from phr.sharing.links import Wish
from phr.sharing.proof import OAuthRefused
from phr.sharing.provision import IDENTITY, SUPPORTING, Rule
from phr.sharing.servers import Server
from phr.store import audit
from phr.store.house import House
from phr.store.models import Authorization, HandleKind, VaultFact
from phr.store.vault import Vault

EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # RFC 8693 §2.1
TOKEN_TYPE: Final = "https://smarthealthit.org/token-type/permission-ticket"  # noqa: S105 - a name
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name
TYPE: Final = "https://smarthealthit.org/permission-ticket-type/patient-self-access-v1"
TYPES: Final = (TYPE,)  # what is accepted, as the discovery document says
ALGORITHM: Final = "ES256"
PLACE: Final = "/tickets/"  # an issuer is public_url + PLACE + its id
KEYS: Final = "/.well-known/jwks.json"
STATUS: Final = "/status.json"
LONGEST: Final = 16 << 10  # characters
NEEDED: Final = ("iss", "aud", "exp", "iat", "jti", "ticket_type", "subject", "access")
KERNEL: Final = frozenset({*NEEDED, "aud_type", "nbf", "presenter_binding", "revocation"})
NOT_ENFORCED: Final = frozenset(  # kernel fields of this draft and of earlier ones
    {
        "requester", "context", "subject_identity_evidence", "requester_identity_evidence",
        "authorization", "cnf", "ticket_context",
    }
)  # fmt: skip
ISSUER_FACT: Final = "ticket_issuer"
OTHER_KEY: Final = (
    "This server has several keys, or none of a kind that SMART asks for. Give the one public key"
    " that it will show, instead of its address."
)


@dataclass(frozen=True, slots=True)
class Made:
    """A ticket as it is shown once, and when it ends."""

    grant_id: str
    text: str = field(repr=False)
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket that was shown, found whole and signed by us; whether it stands is not said yet."""

    id: str
    patient_id: str  # of the record whose issuer signed it
    text: str = field(repr=False)
    subject: str  # the person's local id
    offered: Wishes
    wanted: Wishes | None  # None: all of it


# ------------------------------------------------------------------ the issuer


def _issuer(vault: Vault) -> Mapping[str, Any]:
    """Return id and private key of this record's issuer, made at the first ticket.

    The key lies in the vault; its public half also in the house, for it is asked for while the
    vault is sealed. Another id for each record: nobody learns which belong to one household.
    """
    kept = vault.fact(ISSUER_FACT)
    if kept is None:
        made = {"id": ids.new_id(), "key": jwt.new_key(ALGORITHM)}
        with vault.write() as session:
            row = session.get(VaultFact, ISSUER_FACT)
            if row is None:
                row = VaultFact(name=ISSUER_FACT, value=json.dumps(made).encode())
                session.add(row)
            kept = row.value
    issuer: Mapping[str, Any] = json.loads(kept)
    vault.house.setting_or_made(
        _published(issuer["id"]),
        lambda: {"patient": vault.id, "keys": [jwt.public_half(issuer["key"])]},
    )
    return issuer


def _published(issuer_id: str) -> str:
    return f"ticket_issuer {issuer_id}"


def keys(house: House, issuer_id: str) -> Mapping[str, Any] | None:
    """Return the JWK Set of an issuer (RFC 7517 §5), also of a sealed record; None: not ours."""
    found = house.get_setting(_published(issuer_id))
    return None if found is None else {"keys": found["keys"]}


def stopped(house: House, issuer_id: str) -> Mapping[str, Any] | None:
    """Return the status list of an issuer: a set bit says that the ticket at this place ended.

    `bits` is base64url of a gzip of the bits, the lowest of each byte first. None: none of ours.
    """
    found = house.get_setting(_published(issuer_id))
    if found is None:
        return None
    bits = bytearray(handles.TICKET_PLACES // 8)
    for place in handles.stopped_tickets(house, found["patient"]):
        bits[place // 8] |= 1 << place % 8
    packed = gzip.compress(bytes(bits), mtime=0)
    return {"kid": found["keys"][0]["kid"], "bits": ids.as_text(packed)}


def is_stopped(status: Mapping[str, Any], place: int) -> bool:
    """Read one bit of a status list. Raises TrustError where the list cannot be read."""
    text = str(status.get("bits"))
    try:
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        bits = gzip.decompress(packed) if len(packed) <= LONGEST else b""
    except (ValueError, OSError, EOFError):
        bits = b""
    if not 0 <= place < len(bits) * 8:
        raise TrustError
    return bool(bits[place // 8] >> place % 8 & 1)


# ------------------------------------------------------------------ writing one


def issue(
    vault: Vault,
    wish: Wish,
    server: Server,
    key_set: Mapping[str, Any],
    addresses: Addresses,
    *,
    grant_id: str,
    step_up: StepUp,
    shown: str,
    actor: Mapping[str, Any],
    now: datetime,
) -> Made:
    """Make a grant for a server and the ticket by which it comes for it; shown once.

    `key_set` is what was found at the server's address: the ticket serves whoever holds its one
    key. `grant_id` comes with the form, so that one sent twice makes one ticket. Raises
    InvalidInput, Conflict or StepUpNeeded; then nothing was given.
    """
    bound = bound_key(key_set)
    issuer = _issuer(vault)
    says = Registration(server.name, (), server.jwks, server.jwks_uri)
    scopes = scopes_of(wish.provision.rules)
    client_id = clients.known_server(vault.house, says, by=step_up.account_id).id
    with vault.write() as session:
        grant = grants.create(
            session,
            grant_id=grant_id,
            recipient_id=recipients.app(session, client_id, server.name, now=now).id,
            role=wish.role,
            provision=wish.provision,
            reason=wish.reason,
            created_by=step_up.account_id,
            shared_by=str(actor["name"]),
            ends_at=wish.ends_at,
            uses=None,
            now=now,
        )
        grants.approve(session, vault, grant, step_up=step_up, shown=shown, actor=actor, now=now)
        session.add(
            Authorization(
                grant_id=grant.id,
                client_id=client_id,
                account_id=step_up.account_id,
                scopes=str(scopes),
                redirect_uri="",
                code_challenge="",
                chain_key=ids.random_bytes(32),
            )
        )
        routing_id, place = handles.ticket_route(vault.house, vault.id, grant.id)
        iss = addresses.public_url + PLACE + str(issuer["id"])
        claims = {
            "iss": iss,
            "aud": addresses.fhir,
            "aud_type": "data_holder_url",
            "iat": int(now.timestamp()),
            "exp": int(wish.ends_at.timestamp()),
            "jti": routing_id,
            "ticket_type": TYPE,
            "presenter_binding": {"method": "jkt", "jkt": bound},
            "revocation": {"url": iss + STATUS, "index": place},
            "subject": _subject(iss, references.patient_id(vault.id_key)),
            "access": _access(wish.provision.rules, scopes),
        }
        text = jwt.sign(claims, issuer["key"])
        handles.keep_ticket(session, grant.id, routing_id, text, now=now)
        audit.append(session, vault, "ticket.made", actor, grant_id=grant.id)
    return Made(grant_id, text, wish.ends_at)


def bound_key(key_set: Mapping[str, Any]) -> str:
    """Return the RFC 7638 thumbprint of the one key with which a server can show who it is.

    Raises InvalidInput where there are several, or none.
    """
    listed = key_set.get("keys") or []
    fitting = {
        jwt.thumbprint(key)
        for key in listed
        if key.get("alg", "RS384") in jwt.SIGNING_ALGORITHMS
        and key.get("use", "sig") == "sig"
        and (key.get("kty") == "RSA" or key.get("crv") == "P-384")
    } - {None}
    if len(fitting) != 1:
        raise InvalidInput(OTHER_KEY)
    return str(fitting.pop())


def scopes_of(rules: Sequence[Rule]) -> Wishes:
    """Return SMART scopes that reach what rules give, and who the person is.

    Where a rule says more than a scope can, the scope is wider: the grant itself narrows it.
    """
    texts = [
        f"patient/{type_}.rs" + (f"?category={consent.category(type_, code)}" if code else "")
        for rule in rules
        for type_ in rule.types
        for code in (rule.categories if type_ in consent.CATEGORIES else ()) or ("",)
    ]
    named = [f"patient/{type_}.rs" for type_ in (*IDENTITY, *SUPPORTING)]
    return asking.read(" ".join(dict.fromkeys([*texts, *named])))


def _subject(issuer: str, patient_id: str) -> Mapping[str, Any]:
    """Name the person by the local id alone: who carries a ticket about learns no name from it."""
    return {
        "patient": {
            "resourceType": "Patient",
            "identifier": [{"system": issuer, "value": patient_id}],
        },
        "recipient_record": {"reference": f"Patient/{patient_id}", "type": "Patient"},
    }


def _access(rules: Sequence[Rule], scopes: Wishes) -> Mapping[str, Any]:
    """Say what may be fetched, and the period where one holds for all of it."""
    spans = {(rule.since, rule.until) for rule in rules}
    since, until = spans.pop() if len(spans) == 1 else (None, None)
    period = {"start": since, "end": until}
    said = {name: clock.instant(at) for name, at in period.items() if at is not None}
    return {"smart_scopes": [line.text for line in scopes.lines]} | (
        {"data_period": said} if said else {}
    )


# ------------------------------------------------------------------ judging one that is shown


def read(
    house: House,
    given: Mapping[str, Sequence[str]],
    key: str,
    addresses: Addresses,
    *,
    now: datetime,
) -> Ticket:
    """Return the ticket of a token exchange (RFC 8693 §2.1). Raises OAuthRefused.

    `key` is the thumbprint of the key with which the client has just proved who it is. Whatever the
    ticket says that could not be kept here refuses it (`invalid_grant`). It may be shown any number
    of times. Not looked at: whether its grant stands (`bears`).
    """
    one = {name: values[0] for name, values in given.items() if values}
    if one.get("subject_token_type") != TOKEN_TYPE:
        raise OAuthRefused("invalid_request", "Unsupported subject token type.")
    if not one.get("subject_token"):
        raise OAuthRefused("invalid_request", "No permission ticket provided.")
    if "actor_token" in one or one.get("requested_token_type", ACCESS_TOKEN) != ACCESS_TOKEN:
        raise OAuthRefused("invalid_request", "Only an access token for one ticket is given.")
    if {one.get(name, addresses.fhir) for name in ("resource", "audience")} != {addresses.fhir}:
        raise OAuthRefused("invalid_target")
    try:
        return _read(house, one["subject_token"], one.get("scope"), key, addresses, now=now)
    except TrustError:
        raise _refused("Ticket signature verification failed.") from None


def _read(
    house: House, text: str, wanted: str | None, key: str, addresses: Addresses, *, now: datetime
) -> Ticket:
    head = jwt.header(text) if len(text) <= LONGEST else {}
    if head.get("alg") != ALGORITHM or not isinstance(head.get("kid"), str):
        raise _refused("Malformed permission ticket.")
    said = jwt.peek(text)
    patient_id, key_set = _of_ours(house, said.get("iss"), addresses)
    if said.get("aud") != addresses.fhir:  # never one of several (sharing.md §3.4)
        raise _refused("Ticket not valid for this server.")
    claims = jwt.verify(
        text,
        key_set,
        issuer=str(said["iss"]),
        audience=addresses.fhir,
        now=now,
        algorithms={ALGORITHM},
        required=NEEDED,
    )
    if claims["ticket_type"] not in TYPES:
        raise _refused("Unsupported ticket type.")
    _must_be_kept(claims)
    binding = claims.get("presenter_binding")
    if not isinstance(binding, dict) or binding != {"method": "jkt", "jkt": key} or not key:
        raise _refused("Ticket presenter binding mismatch.")
    access = claims["access"]["smart_scopes"]
    return Ticket(
        str(claims["jti"]),
        patient_id,
        text,
        _named_subject(claims["subject"]),
        _wishes(" ".join(access), "invalid_grant"),
        None if wanted is None else _wishes(wanted, "invalid_scope"),
    )


def _of_ours(house: House, issuer: object, addresses: Addresses) -> tuple[str, Mapping[str, Any]]:
    """Return whose record an issuer is of, and its keys; only issuers of this house are trusted."""
    here = addresses.public_url + PLACE
    issuer_id = issuer.removeprefix(here) if isinstance(issuer, str) else ""
    ours = isinstance(issuer, str) and issuer == here + issuer_id
    found = house.get_setting(_published(issuer_id)) if ours else None
    if found is None:
        raise _refused("Ticket issuer not trusted.")
    return found["patient"], {"keys": found["keys"]}


def _must_be_kept(claims: Mapping[str, Any]) -> None:
    """Refuse what could not be enforced here exactly as it is said; facts of a profile may be."""
    critical = claims.get("must_understand", [])
    for name in (*NOT_ENFORCED & claims.keys(), *(critical if isinstance(critical, list) else "?")):
        if name not in KERNEL:
            raise _refused(f"Cannot enforce kernel field: {str(name)[:40]}")
    if claims.get("aud_type", "data_holder_url") != "data_holder_url":
        raise _refused("Ticket not valid for this server.")
    access = claims["access"]
    unknown = access.keys() - {"smart_scopes", "data_period"} if isinstance(access, dict) else {"?"}
    if unknown:
        raise _refused(f"Unsupported access constraint: {min(map(str, unknown))[:40]}")
    scopes = access.get("smart_scopes")
    if not isinstance(scopes, list) or not all(isinstance(each, str) for each in scopes):
        raise _refused("Malformed permission ticket.")


def _named_subject(subject: object) -> str:
    record = subject.get("recipient_record") if isinstance(subject, dict) else None
    named = record.get("reference") if isinstance(record, dict) else None
    return named.removeprefix("Patient/") if isinstance(named, str) else ""


def _wishes(text: str, code: str) -> Wishes:
    try:
        return asking.read(text)
    except InvalidInput:
        raise OAuthRefused(code) from None


def _refused(words: str) -> OAuthRefused:
    return OAuthRefused("invalid_grant", words)


def bears(session: Session, vault: Vault, grant_id: str, ticket: Ticket) -> bool:
    """Say whether a grant is the one that a ticket was made for, letter by letter as it was made.

    So even what our own key signed beside it opens nothing.
    """
    handle = handles.of_grant(session, grant_id, HandleKind.TICKET)
    return (
        handle is not None
        and handle.id == ticket.id
        and ids.same(handle.secret_hash, ids.fingerprint(ticket.text))
        and ticket.subject == references.patient_id(vault.id_key)
    )


def granted(row: Authorization, ticket: Ticket) -> Wishes:
    """Return what of its wishes a server gets: within the ticket, and within what was approved."""
    within = asking.both(ticket.offered, asking.read(row.scopes))
    if ticket.wanted is None:
        return within
    return asking.both(ticket.wanted, within)


def lines(text: str) -> tuple[Line, ...]:
    """Return what a ticket of others says it lets fetch, unchecked; () where it says nothing."""
    try:
        access = jwt.peek(text).get("access")
        scopes = access.get("smart_scopes") if isinstance(access, dict) else None
        return asking.read(" ".join(map(str, scopes))).lines if isinstance(scopes, list) else ()
    except (TrustError, InvalidInput):
        return ()

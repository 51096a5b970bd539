"""What a connected hospital's interface claims, what it gave and what went wrong, as a report.

It can be shown to the hospital, its vendor or anybody: it is put together of our own words and of
words that standards define. No text that a server or a person wrote freely stands in it, but for
the server's and its software's names, where they hold nothing of the patient.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from phr import __version__, clock, oauth
from phr.bounded import read_object
from phr.chart.plain import counted
from phr.errors import InvalidInput, NetError, NotFound, RemoteBroken
from phr.fhir.check import Note
from phr.fhir.kinds import KINDS
from phr.http import SMALL, Answer, Http, Limits
from phr.oauth import Client, Credentials, Endpoint
from phr.store import connections
from phr.store.models import (
    Connection,
    ConnectionState,
    LedgerLine,
    LedgerState,
    Patient,
    Pull,
    Quarantined,
)
from phr.store.vault import Vault
from phr.told import Fault, faults_in, read_back

HEADINGS: Final = {
    "report": "About this report",
    "claim": "What it says of itself",
    "scope": "What was asked for at the sign-in, and granted",
    "exchange": "How it answers",
    "answer": "What it returned, by kind of record",
    "fault": "What was not as it should be",
    "note": "What is unusual in the records",
}


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the report. `subject` and `value` are fixed words and plain values."""

    kind: str  # a key of HEADINGS
    subject: str
    label: str
    value: Any
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question of a look: how it was answered, without what was answered."""

    question: str
    status: int | None
    media_type: str = ""
    limits: tuple[tuple[str, int | None], ...] = ()  # rate limit headers, a number where it is one
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """What the server said when it was asked just now."""

    exchanges: tuple[Exchange, ...]
    endpoint: Endpoint | None  # None: no sign-in was found there any more
    formats: tuple[str, ...] = ()
    searches: Mapping[str, Collection[str]] = field(default_factory=dict)  # parameters by type


# ------------------------------------------------------------------------- words that may stand

_SHOWN = re.compile(r"[A-Za-z0-9][\w .,&+/()-]{0,59}", re.ASCII)
_LONG_NUMBER = re.compile(r"\d{6}|[0-9a-f]{8}-|\d[\d .-]{8,}\d", re.IGNORECASE)
_RELEASE = re.compile(r"\d{1,2}\.\d{1,2}\.\d{1,3}(?:-[a-z]{2,9}\d{0,2})?")
_SCOPE = re.compile(
    r"openid|fhirUser|profile|launch(?:/patient|/encounter)?|offline_access|online_access|"
    r"(?P<whose>patient|user|system)/(?P<kind>\*|[A-Za-z]{4,40})\."
    r"(?P<may>read|write|\*|(?=[cruds])c?r?u?d?s?)(?P<only>\?\S+)?"
)
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,24}")
_MEDIA: Final = frozenset(
    (
        "application/fhir+json", "application/json", "application/json+fhir", "text/json",
        "application/fhir+xml", "application/xml", "application/xml+fhir", "text/xml",
        "text/html", "text/plain", "application/octet-stream",
    )
)  # fmt: skip
_FORMATS: Final = {"json": "JSON", "xml": "XML", "ttl": "Turtle", "turtle": "Turtle"}
_CAPABILITIES: Final = frozenset(  # SMART App Launch 2.2 §2.2 Capability Sets and Capabilities
    (
        "launch-ehr", "launch-standalone", "authorize-post", "client-public",
        "client-confidential-symmetric", "client-confidential-asymmetric", "sso-openid-connect",
        "context-banner", "context-style", "context-ehr-patient", "context-ehr-encounter",
        "context-standalone-patient", "context-standalone-encounter", "permission-offline",
        "permission-online", "permission-patient", "permission-user", "permission-v1",
        "permission-v2", "smart-app-state",
    )
)  # fmt: skip
_METHODS: Final = frozenset(
    ("none", "client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt")
)
_ALGORITHMS: Final = frozenset(
    ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA")
)
_RATE: Final = frozenset(
    [
        "retry-after",
        *(
            f"{prefix}{part}"
            for prefix in ("ratelimit-", "x-ratelimit-", "x-rate-limit-")
            for part in ("limit", "remaining", "reset")
        ),
    ]
)
_ASKED_BY: Final = ("patient", "_lastUpdated", "_count", "category", "date", "code", "status")
_INSIDE: Final = (
    ".local",
    ".internal",
    ".lan",
    ".home",
    ".corp",
    ".intranet",
    ".localdomain",
    ".arpa",
)
_ACCEPT: Final = {
    "accept": "application/fhir+json, application/json;q=0.9, application/json+fhir;q=0.8"
}
SIGNED_IN: Final = "Patient"  # the question that is asked with the permission
_SIZE: Final = Limits(size=8 << 20, first_byte=30.0, total=90.0)


@dataclass(frozen=True, slots=True)
class Veil:
    """Says whether a text of the server holds something of the patient or of our sign-in."""

    private: frozenset[str]  # in small letters, whole words

    def shows(self, text: object) -> str:
        """Return a short name as it is, or "" where it may not be shown."""
        if not isinstance(text, str) or not _SHOWN.fullmatch(text) or _LONG_NUMBER.search(text):
            return ""
        words = re.findall(r"[^\W_]+", text.casefold())
        held = not self.private.isdisjoint([*words, text.casefold()])
        return "" if held else text


def _veil(vault: Vault, row: Connection) -> Veil:
    """Collect what must not stand in a report: names, ids, secrets, parts of addresses."""
    with vault.house.read() as session:
        people = list(session.scalars(select(Patient.name)))
    texts = [row.name, row.remote_patient or "", *people]
    texts += _texts_in([row.client, row.credentials, row.pending or {}])
    texts += urlsplit(row.base_url).path.split("/")
    words = [word for text in texts for word in (text, *re.findall(r"[^\W_]+", text))]
    return Veil(frozenset(word.casefold() for word in words if len(word) >= 3) - _COMMON)


_COMMON: Final = frozenset(("fhir", "api", "hospital", "clinic", "health", "medical", "center"))


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_in(one)


def _scope(text: str) -> str:
    """Return a scope that standards define, less what a search behind it would say; else ""."""
    found = _SCOPE.fullmatch(text)
    if found is None or (found["kind"] or "*") not in {"*", *KINDS}:
        return ""
    return text.partition("?")[0] + ("?…" if found["only"] else "")


# ------------------------------------------------------------------------- faults


FAULTS: Final[Mapping[Fault, str]] = {
    Fault.NOT_FOR_APPS: "Apps may not read this, although the sign-in works.",
    Fault.NOT_THERE: "The interface does not have this.",
    Fault.QUESTION_REFUSED: "The question was refused.",
    Fault.SERVER_ERROR: "The server failed at the question.",
    Fault.WEB_PAGE: "A web page came where records were asked for.",
    Fault.XML: "XML came although JSON was asked for.",
    Fault.EMPTY: "The answer was empty.",
    Fault.TOO_LARGE: "The answer was larger than is allowed.",
    Fault.UNREADABLE: "The answer could not be read.",
    Fault.OTHER_RECORD: "Another record came than the one asked for.",
    Fault.TOO_SLOW: "The answer took too long.",
    Fault.BROKE_OFF: "The answer broke off.",
    Fault.UNPACKED: "The answer was packed in a way not asked for.",
    Fault.REDIRECT: "It wanted to send us on to another address.",
    Fault.CERTIFICATE: "Its certificate is not valid.",
    Fault.UNREACHABLE: "It could not be reached.",
    Fault.OUTSIDE: "It pointed to an address outside of the connection.",
    Fault.CIRCLE: "Its pages did not come to an end.",
    Fault.PARTLY: "It said beside the records that it could not give everything.",
    Fault.THROTTLED: "It asked us to slow down.",
    Fault.BY_CATEGORY: "It answers only when asked by category.",
    Fault.NOT_AT_ONCE: "Asking for everything at once did not work.",
    Fault.SIGN_IN: "It ended the permission.",
    Fault.OTHER_PERSON: "Records of another person came.",
    Fault.NO_RECORD: "Things came that are no records.",
    Fault.BAD_ID: "Records came whose id cannot be used.",
    Fault.MALFORMED: "Records came that are not well-formed.",
    Fault.FILES: "Documents' files could not be fetched.",
    Fault.ELSEWHERE: "Documents' files lie on another server.",
    Fault.SHORT: "Fewer records came than it said there are.",
    Fault.NO_TOTAL: "It did not say how many records there are.",
    Fault.MORE: "More records came than it said there are.",
    Fault.UNDECLARED: "It answered questions about kinds that its own description leaves out.",
    Fault.UNANSWERED: "Its own description names kinds that it then refused.",
    Fault.REFUSED: "Something else went wrong.",
}

NOTES: Final = {
    Note.NO_ID: ("without-id", "Came without an id"),
    Note.DATE_UNREADABLE: ("unreadable-date", "Have a date that is no date"),
    Note.MODIFIED: ("changes-meaning", "Carry an extension that may change what they mean"),
    Note.IN_ERROR: ("entered-in-error", "Are marked as entered in error"),
    Note.WITHDRAWN: ("withdrawn", "Are not offered any more"),
}


def _classed(row: Pull | LedgerLine | Quarantined) -> tuple[Fault, ...]:
    """Return the classes of what a row tells; its words go nowhere."""
    said = row.reason if isinstance(row, Quarantined) else row.sentence
    return (read_back(row.faults) or (Fault.REFUSED,)) if said else ()


def _asked(session: Session, connection_id: int) -> Connection:
    """Return a connection to a server; files and own statements have no interface: NotFound."""
    row = connections.get(session, connection_id)
    if row.kind in connections.PLACES:
        raise NotFound
    return row


# ------------------------------------------------------------------------- looking


def look(vault: Vault, connection_id: int, http: Http) -> Look:
    """Ask the server now what it says of itself, and how it answers a signed-in question.

    Its body is not kept. The permission is used as it stands and never renewed here: that belongs
    to a pull. Raises NotFound.
    """
    with vault.read() as session:
        row = _asked(session, connection_id)
        known = Endpoint.from_json(row.endpoint)
        active = row.state == ConnectionState.ACTIVE and bool(row.credentials)
        held = Credentials.from_json(row.credentials) if active else None
        patient = row.remote_patient or ""
    base = known.base_url.rstrip("/")
    asked = [_ask(http, "smart-configuration", f"{base}/.well-known/smart-configuration", SMALL)]
    asked.append(_ask(http, "metadata", f"{base}/metadata", _SIZE))
    if held is not None and patient and not held.due(clock.now()):
        asked.append(
            _ask(http, SIGNED_IN, f"{base}/Patient/{patient}", _SIZE, (held.access_token, base))
        )
    endpoint = None
    with suppress(NetError, InvalidInput, RemoteBroken):
        endpoint = oauth.discover(http, known.base_url, known.quirks)
    statement = _statement(asked[1][1])
    return Look(
        tuple(exchange for exchange, _ in asked),
        endpoint,
        tuple(sorted({_FORMATS[word] for word in _formats(statement)})),
        _searches(statement),
    )


def _ask(
    http: Http,
    question: str,
    url: str,
    limits: Limits,
    signed_in: tuple[str, str] = ("", ""),
) -> tuple[Exchange, Answer | None]:
    """Ask one question; `signed_in` is a token and the origin it belongs to."""
    bearer, origin = (one or None for one in signed_in)
    try:
        answer = http.get(url, bearer=bearer, origin=origin, headers=_ACCEPT, limits=limits)
    except NetError as problem:
        return Exchange(
            question, None, fault=next(iter(faults_in(problem.told)), Fault.REFUSED)
        ), None
    media = answer.media_type
    found = Exchange(
        question,
        answer.status,
        media if media in _MEDIA or not media else "another",
        tuple(
            (name, _number(answer.headers[name])) for name in sorted(_RATE & set(answer.headers))
        ),
    )
    return found, answer


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 10 else None


def _statement(answer: Answer | None) -> Mapping[str, Any]:
    if answer is None or answer.status != HTTPStatus.OK:
        return {}
    try:
        return read_object(answer.body)
    except RemoteBroken:
        return {}


def _formats(statement: Mapping[str, Any]) -> Iterator[str]:
    formats = statement.get("format")
    for text in formats if isinstance(formats, list) else ():
        for word in re.findall(r"[a-z]+", text.lower()) if isinstance(text, str) else ():
            if word in _FORMATS:
                yield word


def _searches(statement: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return by which of the parameters we use each kind can be searched, as it declares."""
    found: dict[str, tuple[str, ...]] = {}
    rest = statement.get("rest")
    first = rest[0] if isinstance(rest, list) and rest and isinstance(rest[0], Mapping) else {}
    resources = first.get("resource")
    for one in resources if isinstance(resources, list) else ():
        if isinstance(one, Mapping) and isinstance(one.get("type"), str) and one["type"] in KINDS:
            named = one.get("searchParam")
            params = {
                param.get("name")
                for param in (named if isinstance(named, list) else ())
                if isinstance(param, Mapping) and isinstance(param.get("name"), str)
            }
            found[one["type"]] = tuple(name for name in _ASKED_BY if name in params)
    return found


# ------------------------------------------------------------------------- the report


def report(
    vault: Vault, connection_id: int, seen: Look | None = None, *, named: bool = True
) -> list[Item]:
    """Return the report of a connection, from its ledger and, where there was one, from a look.

    With `named` false the server's name is left out as well. Raises NotFound.
    """
    with vault.read() as session:
        row = _asked(session, connection_id)
        pull = connections.last_pull(session, connection_id)
        lines = connections.lines(session, pull.id) if pull else []
        aside = connections.quarantined(session, pull.id) if pull else []
        flagged = connections.flagged(session, connection_id, [int(bit) for bit in NOTES])
        veil = _veil(vault, row)
        endpoint = seen.endpoint if seen and seen.endpoint else Endpoint.from_json(row.endpoint)
        return [
            *_head(row, pull, seen, veil, named=named),
            *_claims(endpoint, seen, veil),
            *_scopes(row, endpoint),
            *_exchanges(row, seen),
            *_answers(lines, endpoint, seen),
            *_faults(pull, lines, aside, endpoint, seen),
            *_notes(flagged),
        ]


def _head(
    row: Connection, pull: Pull | None, seen: Look | None, veil: Veil, *, named: bool
) -> Iterator[Item]:
    host = _host(row.base_url, veil) if named else ""
    said = host or "Not named in this report."
    yield Item("report", "server", "Server", host or None, said)
    now = _day(clock.now())
    yield Item("report", "made", "Made", now, f"On {now} by Homeport {__version__}.")
    fresh = (
        "Asked anew for this report." if seen else "As it was told when the connection was made."
    )
    yield Item("report", "fresh", "Its own words", seen is not None, fresh)
    if pull is None:
        yield Item("report", "pull", "Records", None, "None were asked for yet.")
        return
    day, kind = _day(pull.started_at), "all of it" if pull.full else "only what is new or changed"
    value = {"on": day, "state": str(pull.state), "full": bool(pull.full)}
    yield Item("report", "pull", "Records", value, f"Last asked for on {day}: {kind}.")


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d}"


def _host(url: str, veil: Veil) -> str:
    """Return the public name of a server, where it holds nothing of the patient."""
    host = (urlsplit(url).hostname or "").lower()
    plain = _HOST.fullmatch(host) and not _LONG_NUMBER.search(host)
    held = any(part in veil.private for part in re.split(r"[.-]", host)[:-2])
    return host if plain and not held and not host.endswith(_INSIDE) else ""


def _claims(endpoint: Endpoint, seen: Look | None, veil: Veil) -> Iterator[Item]:
    release = endpoint.fhir_version or ""
    release = release if _RELEASE.fullmatch(release) else ""
    yield Item("claim", "fhir_version", "FHIR version", release or None, release or "Not told.")
    software = veil.shows(endpoint.software)
    yield Item("claim", "software", "Software", software or None, software or "Not told.")
    if seen is not None:
        yield _listed("formats", "Formats", seen.formats)
    offers = sorted({name for name in endpoint.offers if name in KINDS})
    number = counted(len(offers), "kind")
    yield Item(
        "claim",
        "types",
        "Kinds of records",
        offers,
        f"{number}: {', '.join(offers)}" if offers else "Not told.",
    )
    said = "Yes." if endpoint.everything else "No."
    yield Item("claim", "everything", "Patient/$everything", endpoint.everything, said)
    yield _listed("capabilities", "SMART capabilities", endpoint.capabilities, _CAPABILITIES)
    yield _listed("token_auth", "How apps show who they are", endpoint.token_auth_methods, _METHODS)
    yield _listed("signing", "Signatures it takes", endpoint.token_auth_algorithms, _ALGORITHMS)
    for subject, label, there in (
        ("registration", "Registers apps by itself (RFC 7591)", endpoint.registration_endpoint),
        ("revocation", "Takes permissions back (RFC 7009)", endpoint.revocation_endpoint),
        ("issuer", "Says who answers at the sign-in (RFC 9207)", endpoint.iss_promised),
    ):
        yield Item("claim", subject, label, bool(there), "Yes." if there else "Not told.")


def _listed(
    subject: str, label: str, texts: Iterable[str], known: Collection[str] | None = None
) -> Item:
    """Return a claim that is a list; words that no standard defines are only counted."""
    every = list(dict.fromkeys(texts))
    shown = sorted(text for text in every if known is None or text in known)
    others = len(every) - len(shown)
    parts = [*shown, *([f"{others} more that no standard names"] if others else [])]
    return Item("claim", subject, label, shown, ", ".join(parts) or "Not told.")


def _scopes(row: Connection, endpoint: Endpoint) -> Iterator[Item]:
    if not row.client:
        return
    client = Client.from_json(row.client)
    wanted = client.scopes or oauth.scopes_for(endpoint, confidential=client.is_confidential)
    asked = wanted.split()
    told = str(row.credentials.get("scope") or "") if row.credentials else ""
    granted = told.split() or None
    others = 0
    for text in dict.fromkeys([*asked, *(granted or ())]):
        name = _scope(text)
        if not name:
            others += 1
            continue
        value = {
            "asked": text in asked,
            "granted": None if granted is None else text in granted,
            "offered": text in endpoint.scopes_supported if endpoint.scopes_supported else None,
        }
        yield Item("scope", name, name, value, _scope_sentence(value))
    if others:
        sentence = f"{others} more that no standard names, not shown."
        yield Item("scope", "others", "Others", others, sentence)


def _scope_sentence(value: Mapping[str, bool | None]) -> str:
    asked = "asked for" if value["asked"] else "not asked for"
    granted = {None: "nothing was said", True: "granted", False: "not granted"}[value["granted"]]
    joined = f"{asked}, {'but ' if value['asked'] is not value['granted'] else ''}{granted}"
    listed = "" if value["offered"] is not False else "; not in its own list"
    return f"{joined[0].upper()}{joined[1:]}{listed}."


def _exchanges(row: Connection, seen: Look | None) -> Iterator[Item]:
    if seen is None:
        sentence = "It was not asked for this report, so formats and limits are not told."
        yield Item("exchange", "look", "Now", None, sentence)
        return
    for one in seen.exchanges:
        value = {
            "status": one.status,
            "content_type": one.media_type or None,
            "rate_limits": dict(one.limits),
            "fault": one.fault,
        }
        yield Item("exchange", one.question, one.question, value, _exchange_sentence(one))
    if row.credentials and all(one.question != SIGNED_IN for one in seen.exchanges):
        sentence = "Not asked: the permission has to be renewed first. Fetch records, then look."
        yield Item("exchange", SIGNED_IN, SIGNED_IN, None, sentence)


def _exchange_sentence(one: Exchange) -> str:
    if one.status is None:
        return FAULTS[one.fault or Fault.REFUSED]
    unusual = {"": "no content type", "another": "an unusual content type"}
    parts = [f"Answer {one.status}", unusual.get(one.media_type, one.media_type)]
    for name, number in one.limits:
        parts.append(name if number is None else f"{name} {number}")
    return ", ".join(parts) + "."


def _answers(lines: Sequence[LedgerLine], endpoint: Endpoint, seen: Look | None) -> Iterator[Item]:
    for line in sorted(lines, key=lambda one: (one.type, one.chain)):
        kind = KINDS.get(line.type)
        if kind is None and line.type != "*":
            continue
        search = line.chain.partition("?")[2]
        search = search if kind is not None and search in kind.searches else ""
        subject = f"{line.type}?{search}" if search else line.type
        value = {
            "type": line.type,
            "search": search or None,
            "state": str(line.state),
            "got": line.got,
            "claimed": line.claimed,
            "pages": line.pages,
            "set_aside": line.quarantined,
            "declared": line.type in endpoint.offers if endpoint.offers else None,
            "searchable_by": list(seen.searches.get(line.type, ())) if seen else None,
            "why": list(_classed(line)),
        }
        label = "Everything at once" if kind is None else kind.label
        label += f" ({search})" if search else ""
        yield Item("answer", subject, label, value, _answer_sentence(line))


def _answer_sentence(line: LedgerLine) -> str:
    whole = f"{line.got:,}" if line.claimed is None else f"{line.got:,} of {line.claimed:,}"
    parts = {
        LedgerState.REFUSED: "refused",
        LedgerState.BROKEN: f"broken, {whole} came" if line.got else "no usable answer",
        LedgerState.ASKING: f"under way, {whole} so far",
        LedgerState.DONE: f"{whole} on {counted(line.pages, 'page')}" if line.pages else whole,
    }
    said = [parts[LedgerState(line.state)]]
    if line.quarantined:
        said.append(f"{line.quarantined} set aside")
    said += [FAULTS[fault].rstrip(".").lower() for fault in _classed(line)]
    joined = "; ".join(said)
    return f"{joined[0].upper()}{joined[1:]}."


def _faults(
    pull: Pull | None,
    lines: Sequence[LedgerLine],
    aside: Sequence[Quarantined],
    endpoint: Endpoint,
    seen: Look | None,
) -> Iterator[Item]:
    found: dict[Fault, list[str]] = {}
    for word, what in _found(pull, lines, aside, endpoint, seen):
        kinds = found.setdefault(word, [])
        if what and what not in kinds:
            kinds.append(what)
    for word in FAULTS:
        if word in found:
            at = sorted(found[word])
            sentence = FAULTS[word] + (f" ({', '.join(at)})" if at else "")
            yield Item("fault", word, word, at, sentence)
    if not found:
        yield Item("fault", "none", "None", [], "Nothing was found.")


def _found(
    pull: Pull | None,
    lines: Sequence[LedgerLine],
    aside: Sequence[Quarantined],
    endpoint: Endpoint,
    seen: Look | None,
) -> Iterator[tuple[Fault, str]]:
    """Yield each fault with the kind of record (or the question) it was met at."""
    for line in lines:
        kind = line.type if line.type in KINDS or line.type == "*" else ""
        for word in _classed(line):
            yield word, kind
        for word in _counted(line, endpoint):
            yield word, kind
    for row in (*aside, *([pull] if pull else ())):
        for word in _classed(row):
            yield word, ""
    for exchange in seen.exchanges if seen else ():
        if exchange.fault:
            yield exchange.fault, exchange.question
        elif exchange.media_type == "text/html":
            yield Fault.WEB_PAGE, exchange.question


def _counted(line: LedgerLine, endpoint: Endpoint) -> Iterator[Fault]:
    """Yield what the numbers of a line tell, as far as it was a search that came to its end."""
    if line.state == LedgerState.DONE and line.type != "Binary":
        if line.claimed is None:
            if line.got and line.chain == line.type and line.type != "Patient":
                yield Fault.NO_TOTAL
        elif line.got < line.claimed:
            yield Fault.SHORT
        elif line.got > line.claimed:
            yield Fault.MORE
    if line.type in KINDS and endpoint.offers and line.type != "Binary":
        if line.state == LedgerState.DONE and line.got and line.type not in endpoint.offers:
            yield Fault.UNDECLARED
        if line.state == LedgerState.REFUSED and line.type in endpoint.offers:
            yield Fault.UNANSWERED


def _notes(flagged: Mapping[int, int]) -> Iterator[Item]:
    for bit, (word, label) in NOTES.items():
        number = flagged.get(int(bit), 0)
        if number:
            yield Item("note", word, label, number, f"{counted(number, 'record')}.")


# ------------------------------------------------------------------------- as text


def as_text(items: Iterable[Item]) -> str:
    """Return a report for people: one heading for each part, one line for each item."""
    said, part = ["What this hospital's interface does"], ""
    for one in items:
        if one.kind != part:
            part = one.kind
            said += ["", HEADINGS[part]]
        said.append(f"  {one.label}: {one.sentence}")
    return "\n".join(said) + "\n"


def as_lines(items: Iterable[Item]) -> str:
    """Return a report as NDJSON."""
    return "".join(msgspec.json.encode(one).decode() + "\n" for one in items)

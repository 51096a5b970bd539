"""SMART Health Cards of others: reading them, and whether their issuer signed them (SHC 1.4).

A card is kept as it came; what is said of it is who signed it and when that was looked at. Homeport
signs none. Whether an issuer is who it says it is, no list here decides.
"""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from phr import clock, ids, jwt
from phr.bounded import read_object
from phr.errors import InvalidInput, NetError, RemoteBroken, TrustError
from phr.fhir import document
from phr.http import SMALL, Http

NUMERIC: Final = "shc:/"
OFFSET: Final = 45  # of a character in numeric mode: two digits are its code less 45
MOST_CARDS: Final = 20
LONGEST_ISSUER: Final = 120  # characters of its address, which is shown whole
MOST_ENTRIES: Final = 500
ENDING: Final = ".smart-health-card"
NO_CARD: Final = "This is not a health card: a QR code of one begins with “shc:/”."
ODD_ISSUER: Final = (
    f"The issuer of this card is no address that can be shown whole: {LONGEST_ISSUER} plain"
    " characters at most. The card was not opened."
)
CUT: Final = "This health card is cut off or was altered. Copy or scan all of it."
_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_INNER = re.compile(r"resource:\d{1,4}")


@dataclass(frozen=True, slots=True)
class Card:
    """One card: the signed text as it came, its issuer, and what was found out about it.

    `objection` "" means that the signature, the times and the issuer's list of withdrawn cards were
    looked at and stood; else it says why not.
    """

    jws: str = field(repr=False)
    issuer: str
    issued: datetime | None
    resources: tuple[Mapping[str, Any], ...] = field(repr=False)
    objection: str

    @property
    def host(self) -> str:
        """The name of the server at which the issuer publishes its keys."""
        return urlsplit(self.issuer).hostname or "an unknown issuer"

    @property
    def signer(self) -> str:
        """The issuer's whole address: at one host there may be many."""
        return self.issuer.partition("://")[2] or "an unknown issuer"

    @property
    def id(self) -> str:
        """A name for it that is always the same for the same card."""
        return f"card-{ids.fingerprint(self.jws).hex()[:32]}"


def is_card(text: str) -> bool:
    """Tell the text of a card, of its QR code or of its file from anything else."""
    plain = text.strip()
    return (
        plain.startswith(NUMERIC) or bool(_JWS.fullmatch(plain)) or "verifiableCredential" in text
    )


def read(text: str) -> list[str]:
    """Return the signed texts in a QR code (numeric mode), a file of cards, or a card itself."""
    plain = text.strip()
    if plain.startswith(NUMERIC):
        return [_of_digits(plain.removeprefix(NUMERIC))]
    if _JWS.fullmatch(plain):
        return [plain]
    try:
        listed = read_object(plain.encode()).get("verifiableCredential")
    except (RemoteBroken, UnicodeEncodeError):
        listed = None
    if not isinstance(listed, list) or not listed or not all(_is_jws(each) for each in listed):
        raise InvalidInput(NO_CARD)
    if len(listed) > MOST_CARDS:
        raise InvalidInput(f"This file holds more than {MOST_CARDS} cards.")
    return [str(each) for each in listed]


def _is_jws(value: object) -> bool:
    return isinstance(value, str) and bool(_JWS.fullmatch(value))


def _of_digits(digits: str) -> str:
    if "/" in digits:
        raise InvalidInput(
            "This is one part of a health card that was cut into several QR codes, which issuers no"
            " longer do. Take the file of the card instead."
        )
    if not digits.isascii() or not digits.isdigit() or len(digits) % 2:
        raise InvalidInput("This QR code of a health card is cut off. Scan it again.")
    pairs = (int(digits[at : at + 2]) for at in range(0, len(digits), 2))
    text = "".join(chr(pair + OFFSET) for pair in pairs)
    if not _is_jws(text):
        raise InvalidInput(CUT)
    return text


def numeric(jws: str) -> str:
    """Return what the QR code of a card says (SHC "Encoding chunks as QR codes")."""
    return NUMERIC + "".join(f"{ord(letter) - OFFSET:02d}" for letter in jws)


def file(cards: Sequence[str]) -> bytes:
    """Return cards as a `.smart-health-card` file, each unchanged."""
    return json.dumps({"verifiableCredential": list(cards)}).encode()


# ------------------------------------------------------------------ who signed it


def judge(http: Http, jws: str, *, now: datetime) -> Card:
    """Return a card with what its issuer's keys say of it. Raises InvalidInput for what is none.

    That the keys cannot be had is an objection too: nothing is taken on trust.
    """
    try:
        kid, claims = jwt.card_claims(jws)
    except TrustError:
        raise InvalidInput(CUT) from None
    issuer, credential = claims.get("iss"), claims.get("vc")
    if not isinstance(issuer, str) or not isinstance(credential, dict):
        raise InvalidInput(NO_CARD)
    _must_be_plain(issuer)
    _must_be_sound(credential)
    issued = _moment(claims.get("nbf"))
    objection = ""
    try:
        _look(http, jws, kid, claims, now)
    except TrustError as refused:
        objection = refused.sentence
    except NetError:
        objection = "The keys of the issuer could not be fetched."
    return Card(jws, issuer, issued, tuple(_resources(credential)), objection)


def _must_be_plain(issuer: str) -> None:
    """Refuse an issuer whose name a reader could take for another's: cut off, reordered, alike."""
    try:
        urlsplit(issuer).port  # noqa: B018 - reading it is the check
    except ValueError:
        raise InvalidInput(ODD_ISSUER) from None
    shown = issuer.isascii() and issuer.isprintable() and " " not in issuer
    if not shown or len(issuer) > LONGEST_ISSUER:
        raise InvalidInput(ODD_ISSUER)


def _must_be_sound(credential: Mapping[str, Any]) -> None:
    """Refuse what could not be kept, by the rules of every record: depth, halves of characters."""
    try:
        document.strict(json.dumps(credential).encode())
    except RecursionError:
        raise InvalidInput(NO_CARD) from None


def _moment(value: object) -> datetime | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e11
    return clock.from_ms(int(value * 1000)) if good and isinstance(value, int | float) else None


def _look(http: Http, jws: str, kid: str, claims: Mapping[str, Any], now: datetime) -> None:
    issuer = claims["iss"]
    if set(issuer) & set("?#@\\"):  # another's server would answer for what stands behind it
        raise TrustError("The issuer names no address of its own.")
    if urlsplit(issuer).scheme != "https" and not _is_allowed(http, issuer):
        raise TrustError("The issuer names no https address, so its keys cannot be trusted.")
    keys = _fetched(http, f"{issuer.rstrip('/')}/.well-known/jwks.json")
    jwt.verify_card(jws, keys)
    issued, until = _moment(claims.get("nbf")), _moment(claims.get("exp"))
    if issued is None or issued > now:
        raise TrustError("It is signed, but not valid yet.")
    if "exp" in claims and (until is None or until <= now):
        raise TrustError("It is signed, but its issuer let it run out.")
    _refuse_withdrawn(http, kid, keys, claims, issued)


def _is_allowed(http: Http, issuer: str) -> bool:
    """Tell a plain address that the owner of this box allowed (tests, a server in the house)."""
    place = urlsplit(issuer)
    return http.guard.is_allowed(place.hostname or "", place.port or 80)


def _fetched(http: Http, url: str) -> dict[str, Any]:
    answer = http.get(url, headers={"accept": "application/json"}, limits=SMALL)
    if answer.status != 200:
        raise TrustError("The issuer publishes no keys at the address it names.")
    try:
        return read_object(answer.body)
    except RemoteBroken:
        raise TrustError("What the issuer publishes cannot be read.") from None


def _refuse_withdrawn(
    http: Http, kid: str, keys: Mapping[str, Any], claims: Mapping[str, Any], issued: datetime
) -> None:
    """Look at the issuer's list of withdrawn cards, where its key names one (SHC "Revocation")."""
    rid = claims["vc"].get("rid")
    named = any(one.get("kid") == kid and "crlVersion" in one for one in _dicts(keys.get("keys")))
    if not named or not isinstance(rid, str):
        return
    listed = _fetched(http, f"{claims['iss'].rstrip('/')}/.well-known/crl/{kid}.json").get("rids")
    for each in listed if isinstance(listed, list) else []:
        withdrawn, _, since = str(each).partition(".")
        if withdrawn == rid and (not since or _before(issued, since)):
            raise TrustError("Its issuer has withdrawn it.")


def _before(issued: datetime, since: str) -> bool:
    return not since.isdigit() or len(since) > 11 or issued.timestamp() < int(since)


def _dicts(value: object) -> Iterator[Mapping[str, Any]]:
    return (
        (each for each in value if isinstance(each, dict)) if isinstance(value, list) else iter(())
    )


# ------------------------------------------------------------------ what is in it


def _resources(credential: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    subject = credential.get("credentialSubject")
    bundle = subject.get("fhirBundle") if isinstance(subject, dict) else None
    entries = bundle.get("entry") if isinstance(bundle, dict) else None
    for each in list(_dicts(entries))[:MOST_ENTRIES]:
        resource = each.get("resource")
        if isinstance(resource, dict) and isinstance(resource.get("resourceType"), str):
            yield resource


def said_by(text: str) -> tuple[Mapping[str, Any], ...]:
    """Return what a card in a text says that it holds, whoever signed it; () for no card."""
    try:
        _, claims = jwt.card_claims(read(text)[0])
    except (InvalidInput, TrustError):
        return ()
    credential = claims.get("vc")
    return tuple(_resources(credential)) if isinstance(credential, dict) else ()


def lines(card: Card, *, now: datetime) -> bytes:
    """Return a card as NDJSON to be kept: the card itself unchanged, inside a DocumentReference.

    What a verified one says comes along as records with ids; of any other only the card is kept.
    """
    day = f"{now.day} {now:%b %Y}"
    said = f"Signed by {card.signer}, verified on {day}."
    if card.objection:
        said = f"Says it is signed by {card.signer}. Not verified on {day}: {card.objection}"
    reference = {
        "resourceType": "DocumentReference",
        "id": card.id,
        "status": "current",
        "type": {"text": "SMART Health Card"},
        "description": said,
        "date": clock.instant(card.issued or now),
        "content": [
            {
                "attachment": {
                    "contentType": "application/smart-health-card",
                    "title": f"{card.host}{ENDING}",
                    "data": b64encode(file([card.jws])).decode(),
                }
            }
        ],
    }
    inside = [] if card.objection else list(_named(card))
    return b"\n".join(document.dumps(each) for each in (reference, *inside)) + b"\n"


def _named(card: Card) -> Iterator[Mapping[str, Any]]:
    """Yield the card's resources with ids of their own, so that they can refer to each other."""
    names = [f"{card.id}-{number}" for number in range(len(card.resources))]

    def known(found: re.Match[str]) -> str:
        number = int(found[0].rpartition(":")[2])
        if number >= len(names):
            return found[0]
        return f"{card.resources[number]['resourceType']}/{names[number]}"

    for name, resource in zip(names, card.resources, strict=True):
        yield _pointed({**resource, "id": name}, known)


def _pointed(value: Any, known: Callable[[re.Match[str]], str]) -> Any:
    if isinstance(value, dict):
        return {key: _pointed(each, known) for key, each in value.items()}
    if isinstance(value, list):
        return [_pointed(each, known) for each in value]
    return known(m) if isinstance(value, str) and (m := _INNER.fullmatch(value)) else value

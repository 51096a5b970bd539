"""Consent as FHIR says it: a grant as R4 Consent, and what a Consent from elsewhere asks.

Deny at the root, one permit for each rule. Written out it says what was granted and never what was
left out. Read in (R4, and the STU3 profile of 2017) it is understood whole or refused in words.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import reduce
from itertools import combinations
from operator import or_
from typing import Any, Final

from phr import clock
from phr.errors import InvalidInput
from phr.fhir import reading
from phr.fhir.build import CODE_SYSTEM, LOINC, concept
from phr.fhir.labels import Label
from phr.sharing import asking
from phr.sharing.asking import Context, Line, Wishes
from phr.sharing.gate import Terms
from phr.sharing.provision import Action, Provision, Rule
from phr.sharing.recipients import NAME_LENGTH, one_line
from phr.sharing.search import nearest

RESOURCE_TYPES: Final = "http://hl7.org/fhir/resource-types"
SCOPES: Final = "http://smarthealthit.org/fhir/scopes"  # as in 2017: one coding for each scope
SIMPLE_OAUTH: Final = "http://hl7.org/fhir/ConsentDefinition/simple-oauth"  # never published
ACTIONS: Final = (f"{CODE_SYSTEM}consentaction", "http://hl7.org/fhir/consentaction")
IRCP: Final = f"{CODE_SYSTEM}v3-ParticipationType"
ACT_CODE: Final = f"{CODE_SYSTEM}v3-ActCode"
CONFIDENTIALITY: Final = f"{CODE_SYSTEM}v3-Confidentiality"
ACT_REASON: Final = f"{CODE_SYSTEM}v3-ActReason"
OLDER_REASON: Final = "http://hl7.org/fhir/v3/ActReason"  # as STU3 spelled it
PURPOSES: Final = {  # of v3-ActReason; others promise what we cannot
    "TREAT": "Treatment",
    "PATRQT": "Because the patient asked for it",
}
CONSENT_SCOPE: Final = f"{CODE_SYSTEM}consentscope"
OPTED_IN: Final = frozenset({"OPTIN", "OPTINR"})
FETCHING: Final = frozenset({Action.VIEW, Action.DOWNLOAD})  # what a server does with it
MOST_PERMITS: Final = 50
CATEGORIES: Final = {
    "Observation": f"{CODE_SYSTEM}observation-category",
    "Condition": f"{CODE_SYSTEM}condition-category",
}


IRCP_ALONE: Final = [concept("v3-ParticipationType", "IRCP")]
OPT_IN: Final = concept("v3-ActCode", "OPTINR")


class NotExpressible(InvalidInput):
    """A Consent that asks for something that cannot be kept here exactly as it is said."""


# ------------------------------------------------------------------ a grant, written out


def resource(
    terms: Terms, provision: Provision, patient_id: str, *, status: str = "active"
) -> Mapping[str, Any]:
    """Return the Consent resource (R4 §6.2, constraint ppc-1 met by `policyRule`)."""
    return {
        "resourceType": "Consent",
        "id": terms.grant_id,
        "status": status,
        "scope": concept("consentscope", "patient-privacy"),
        "category": [concept(LOINC, "59284-0")],
        "patient": {"reference": f"Patient/{patient_id}"},
        "dateTime": clock.instant(terms.created_at),
        **({"performer": [{"display": terms.shared_by}]} if terms.shared_by else {}),
        "policyRule": OPT_IN,
        "provision": {
            "type": "deny",
            "period": {
                "start": clock.instant(terms.created_at),
                "end": clock.instant(terms.ends_at),
            },
            "provision": [_permit(rule, terms) for rule in provision.rules],
        },
    }


def _permit(rule: Rule, terms: Terms) -> dict[str, Any]:
    permit: dict[str, Any] = {
        "type": "permit",
        "actor": [
            {
                "role": concept("v3-ParticipationType", "IRCP"),
                "reference": {"display": terms.recipient},
            }
        ],
        "action": [concept("consentaction", "access")],
        "purpose": [{"system": ACT_REASON, "code": terms.purpose}],
        "class": _classes(rule.types, rule.categories),
    }
    period = {"start": rule.since, "end": rule.until}
    if any(period.values()):
        permit["dataPeriod"] = {k: clock.instant(at) for k, at in period.items() if at is not None}
    if rule.without:  # an exception to what stands around it (R4 §6.2.4.5)
        permit["provision"] = [{"type": "deny", "class": _classes(rule.types, rule.without)}]
    return permit


def _classes(types: Sequence[str], categories: Sequence[str]) -> list[dict[str, str]]:
    if not categories:
        return [{"system": RESOURCE_TYPES, "code": each} for each in types]
    return [
        {"system": SCOPES, "code": f"patient/{type_}.rs?category={category(type_, each)}"}
        for type_ in types
        for each in categories
    ]


def category(type_: str, code: str) -> str:
    """Return a category as a scope or a search names it: with its code system where one is ours."""
    system = CATEGORIES.get(type_)
    return f"{system}|{code}" if system else code


# ------------------------------------------------------------------ a Consent, read in


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of record that is asked for, and from which time (first instant, first beyond)."""

    line: Line
    since: datetime | None
    until: datetime | None

    @property
    def rule(self) -> Rule:
        """The same as a rule of a grant: its data period holds for all of it (sharing.md §4.2)."""
        return replace(self.line.rule, since=self.since, until=self.until)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a Consent from elsewhere asks, understood whole; nothing of it is given yet."""

    parts: tuple[Part, ...]
    labels: Label
    purpose: str
    ends_at: datetime | None  # None: it names no end
    named: str  # whom it is for, as it says; "" where it does not
    server: str  # that one's address, where it gives one

    @property
    def provision(self) -> Provision:
        """The whole of it as a grant would cover it."""
        return self.kept([part.line.text for part in self.parts], self.labels)

    def kept(
        self, lines: Collection[str], labels: Label, since: datetime | None = None
    ) -> Provision:
        """Return what a grant covers with these lines and labels left, dated kinds from `since`."""
        rules = tuple(
            replace(rule, since=max(filter(None, (part.since, rule.since)), default=None))
            for part in self.parts
            if part.line.text in lines and part.line.scope.type not in asking.NAMELESS
            for rule in asking.reaching([replace(part.rule, since=None)], since)
        )
        return Provision(tuple(dict.fromkeys(rules)), labels & self.labels, FETCHING)


def read(document: Mapping[str, Any], *, patient_id: str, now: datetime) -> Proposal:
    """Read a Consent (R4, or the STU3 profile of 2017). Raises NotExpressible, in words.

    Whatever is not understood refuses the whole: leaving a part away could share more than was
    meant. `patient_id` is the local id of the one patient it may be about.
    """
    if document.get("resourceType") != "Consent":
        raise NotExpressible("This is no Consent.")
    _plain(document, _HEAD, "a Consent")
    for one in _list(document.get("performer", [])):  # a name in words decides nothing
        _plain(_object(one, "who agrees"), frozenset({"display"}), "who agrees")
    if _text(document.get("status")) not in {"active", "proposed", "draft"}:
        raise NotExpressible("Only a Consent that is proposed or active asks for something.")
    reference = _object(document.get("patient"), "its patient").get("reference")
    if not isinstance(reference, str) or reference.rpartition("/")[2] != patient_id:
        raise NotExpressible("This Consent is about another patient than the one who let you in.")
    _must_be_for_privacy(document)
    is_2017 = isinstance(document.get("policyRule"), str)
    permits, period = _of_2017(document) if is_2017 else _of_r4(document)
    if not 0 < len(permits) <= MOST_PERMITS:
        raise NotExpressible("This Consent permits nothing, or too much at once.")
    return _joined([_read_permit(each) for each in permits], _end_of(period, now), document)


_HEAD: Final = frozenset({
    "resourceType", "id", "meta", "text", "language", "status", "scope", "category", "patient",
    "dateTime", "performer", "policyRule", "provision", "period", "dataPeriod", "except",
})  # fmt: skip
_PERMIT: Final = frozenset({
    "type", "period", "actor", "action", "securityLabel", "purpose", "class", "dataPeriod",
})  # fmt: skip


def _of_r4(document: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], Any]:
    for name in ("except", "dataPeriod", "period"):
        if name in document:
            raise NotExpressible(f"“{name}” does not stand there in an R4 Consent.")
    for coding in _codings([document["policyRule"]] if "policyRule" in document else [OPT_IN]):
        if coding.get("system", ACT_CODE) != ACT_CODE or _text(coding.get("code")) not in OPTED_IN:
            raise NotExpressible("This policy is not known here: OPTIN or OPTINR.")
    root = _object(document.get("provision"), "its provision")
    _plain(root, frozenset({"type", "period", "provision"}), "the outer provision")
    if root.get("type") != "deny":
        raise NotExpressible("The outer provision denies; what is shared is permitted inside it.")
    permits = [_object(each, "a provision") for each in _list(root.get("provision"))]
    return permits, root.get("period")


def _of_2017(document: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], Any]:
    if document["policyRule"] != SIMPLE_OAUTH or "provision" in document:
        raise NotExpressible("This policy is not known here.")
    shared = {"dataPeriod": document["dataPeriod"]} if "dataPeriod" in document else {}
    permits: list[Mapping[str, Any]] = []
    for each in _list(document.get("except")):
        one = _object(each, "an exception")
        _plain(one, frozenset({"type", "action", "class"}), "an exception")
        permits.append({**one, **shared})
    return permits, document.get("period")


@dataclass(frozen=True, slots=True)
class _Permit:
    parts: tuple[Part, ...]
    labels: Label
    purpose: str
    named: str
    server: str


def _read_permit(permit: Mapping[str, Any]) -> _Permit:
    _plain(permit, _PERMIT, "a permit")
    if permit.get("type") != "permit":
        raise NotExpressible("A provision that denies beside one that permits is not taken.")
    if "period" in permit:
        raise NotExpressible("A permit with a period of its own is not taken: give one to all.")
    for action in _codings(permit.get("action")):
        if action.get("system") not in ACTIONS or action.get("code") != "access":
            raise NotExpressible("Only the action “access” can be granted.")
    since, until = _data_period(permit.get("dataPeriod"))
    parts = tuple(Part(line, since, until) for line in _wishes(permit.get("class")).lines)
    return _Permit(parts, _labels(permit), _purpose(permit), *_actor(permit.get("actor")))


def _wishes(classes: Any) -> Wishes:
    words = []
    for each in _list(classes):
        coding = _object(each, "a class")
        code = coding.get("code")
        if not isinstance(code, str) or " " in code:
            raise NotExpressible("A class has no code.")
        if coding.get("system") == RESOURCE_TYPES:
            words.append(f"patient/{code}.rs")
        elif coding.get("system") == SCOPES:
            words.append(code)
        else:
            raise NotExpressible("A class is of a kind that is not understood here.")
    try:
        asked = asking.read(" ".join(words)) if words else Wishes()
    except InvalidInput as error:
        raise NotExpressible(error.sentence) from None
    given = asking.grantable(asked, (Context.PATIENT,))
    if (
        asked.plain
        or not words
        or given.lines != asked.lines
        or len(asked.lines) != len(set(words))
    ):
        raise NotExpressible("It names scopes beyond reading a patient's records.")
    if not given.rules:
        raise NotExpressible("It permits no kind of record that can be shared by itself.")
    return given


def _data_period(period: Any) -> tuple[datetime | None, datetime | None]:
    if period is None:
        return None, None
    given = _object(period, "its data period")
    _plain(given, frozenset({"start", "end"}), "a period")
    start, end = _moment(given.get("start")), _moment(given.get("end"))
    since = None if start is None else nearest(start[0])
    return since, None if end is None else nearest(end[1] + 1)  # `until` is exclusive


def _end_of(period: Any, now: datetime) -> datetime | None:
    if period is None:
        return None
    given = _object(period, "its period")
    _plain(given, frozenset({"start", "end"}), "a period")
    start, end = _moment(given.get("start")), _moment(given.get("end"))
    if start is not None and nearest(start[0]) > now + timedelta(days=1):
        raise NotExpressible("A Consent that begins later is not taken: send it when it begins.")
    ends_at = None if end is None else nearest(end[1])
    if ends_at is not None and ends_at <= now:
        raise NotExpressible("This Consent has ended.")
    return ends_at


def _moment(value: Any) -> tuple[int, int] | None:
    """Return first and last millisecond of a FHIR dateTime."""
    if value is None:
        return None
    found = reading.moment(value) if isinstance(value, str) else None
    if found is None or found.start is None:
        raise NotExpressible("A date cannot be read.")
    return found.start, found.start if found.end is None else found.end


def _labels(permit: Mapping[str, Any]) -> Label:
    named = []
    for each in _list(permit.get("securityLabel", [])):
        coding = _object(each, "a label")
        code, system = _text(coding.get("code")), _text(coding.get("system"))
        if system not in {ACT_CODE, CONFIDENTIALITY} or code not in Label.__members__:
            raise NotExpressible("A label is of a kind that is not understood here.")
        named.append(Label[code])
    if Label.PRIVATE in named or Label.NONE in named:
        raise NotExpressible("A label is of a kind that is not understood here.")
    return reduce(or_, named, Label.NONE)


def _purpose(permit: Mapping[str, Any]) -> str:
    named = [_object(each, "a purpose") for each in _list(permit.get("purpose", []))]
    codes = {_text(each.get("code")) for each in named} or {"PATRQT"}
    systems = {_text(each.get("system", ACT_REASON)) for each in named}
    if len(codes) > 1 or not codes <= PURPOSES.keys() or not systems <= {ACT_REASON, OLDER_REASON}:
        raise NotExpressible("One purpose can be kept: TREAT or PATRQT.")
    return codes.pop()


def _actor(actors: Any) -> tuple[str, str]:
    """Return whom a permit is for: the name it gives, and an address."""
    if actors is None:
        return "", ""
    listed = _list(actors)
    if len(listed) != 1:
        raise NotExpressible("One recipient can be named in a Consent; send one for each.")
    actor = _object(listed[0], "its recipient")
    _plain(actor, frozenset({"role", "reference"}), "a recipient")
    for role in _codings([actor["role"]] if "role" in actor else IRCP_ALONE):
        if _text(role.get("system")) not in {IRCP, "http://hl7.org/fhir/v3/ParticipationType"} or (
            role.get("code") != "IRCP"
        ):
            raise NotExpressible("Only a recipient (IRCP) can be named.")
    reference = _object(actor.get("reference"), "its recipient")
    _plain(reference, frozenset({"display", "identifier", "type"}), "the recipient's reference")
    identifier = _object(reference.get("identifier", {}), "its identifier")
    server = identifier.get("value") if identifier.get("system") == "urn:ietf:rfc:3986" else None
    if identifier and not isinstance(server, str):
        raise NotExpressible("A recipient is named by the address of its server.")
    named = one_line(_text(reference.get("display")), limit=NAME_LENGTH)
    return named, server or ""


def _joined(
    permits: Sequence[_Permit], ends_at: datetime | None, document: Mapping[str, Any]
) -> Proposal:
    for name in ("labels", "purpose", "named", "server"):
        if len({getattr(each, name) for each in permits}) > 1:
            raise NotExpressible(
                "All permits of a Consent name the same labels, purpose and recipient here; send"
                " one Consent for each."
            )
    first = permits[0]
    _must_be_open(document)
    parts = tuple(dict.fromkeys(part for each in permits for part in each.parts))
    _must_stand_alone(parts)
    return Proposal(
        parts=parts,
        labels=first.labels,
        purpose=first.purpose,
        ends_at=ends_at,
        named=first.named,
        server=first.server,
    )


def _must_stand_alone(parts: Sequence[Part]) -> None:
    """Refuse lines of one kind of record whose data periods would be mixed up.

    A grant holds rules (kind, category, period) and a token holds scopes, each by itself: where a
    narrowing stands in the scope alone, the period of one line would open what another narrows.
    And what stands twice could not be told apart by the patient who unticks one.
    """
    for one, other in combinations(parts, 2):
        if (one.since, one.until) == (other.since, other.until):
            continue
        types = {one.line.scope.type, other.line.scope.type}
        if len(types) > 1 and "*" not in types:
            continue
        if one.line.scope == other.line.scope or not (_is_rule(one) and _is_rule(other)):
            raise NotExpressible(
                "One kind of record stands twice with different data periods, which cannot be kept"
                " apart here; send one Consent for each."
            )


def _is_rule(part: Part) -> bool:
    """Say whether the rule of a line says all that its scope does."""
    query = part.line.scope.query
    plain = all(name == "category" and "|" not in value for name, value in query)
    return plain and len(query) <= 1 and part.line.scope.letters >= asking.GIVEN


# ------------------------------------------------------------------ strictness


def _must_be_for_privacy(document: Mapping[str, Any]) -> None:
    """Refuse other kinds of consent: to treatment, to research, an advance directive."""
    for coding in _codings([document["scope"]]) if "scope" in document else ():
        system, code = coding.get("system", CONSENT_SCOPE), coding.get("code")
        if system != CONSENT_SCOPE or code != "patient-privacy":
            raise NotExpressible("Only a Consent about privacy (patient-privacy) is taken.")


def _must_be_open(value: Any) -> None:
    """Refuse what would change the meaning of the rest without being understood (R4 §2.4.1)."""
    for name, inner in _walk(value):
        if name in {"modifierExtension", "implicitRules", "extension", "contained"} and inner:
            raise NotExpressible("It holds extensions, which are not understood here.")


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield name, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _plain(given: Mapping[str, Any], known: Collection[str], what: str) -> None:
    strange = sorted(name for name in given if name not in known)
    if strange:
        said = one_line(", ".join(strange), limit=NAME_LENGTH)
        raise NotExpressible(f"In {what} this cannot be expressed here: {said}.")


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise NotExpressible(f"The Consent lacks {what}, or it is not in the form of FHIR.")
    return value


def _text(value: Any) -> str:
    """Return a text of FHIR; "" for whatever is none."""
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise NotExpressible("The Consent is not in the form of FHIR.")
    return value


def _codings(concepts: Any) -> list[Mapping[str, Any]]:
    """Return the codings of CodeableConcepts, at least one in each."""
    found = []
    for each in _list(concepts):
        listed = _list(_object(each, "a code").get("coding"))
        if not listed:
            raise NotExpressible("A code is told in words only.")
        found += [_object(coding, "a code") for coding in listed]
    if not found:
        raise NotExpressible("The action is not told.")
    return found

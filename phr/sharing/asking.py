"""What an app asks for by its scopes: what of it can be given, as rules of a grant, and in words.

The grammar, and what the scopes of a token reach at each request: `scopes`. Who asks, and the
patient's answer: `authorization`, and the page where a patient reads this.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Final

from phr.errors import InvalidInput
from phr.fhir import kinds
from phr.sharing import scopes
from phr.sharing.given import DATED
from phr.sharing.provision import IDENTITY, SUPPORTING, Rule
from phr.sharing.scopes import Scope

MOST_WORDS: Final = 200
GIVEN: Final = frozenset("rs")  # reading and searching
SENDING: Final = frozenset("cud")  # what comes this way waits in the patient's inbox
OPENID, FHIR_USER = "openid", "fhirUser"
OFFLINE: Final = "offline_access"
LAUNCH, LAUNCH_PATIENT = "launch", "launch/patient"
MANAGE: Final = "operation/Consent.authorize"
CONNECT: Final = "operation/Consent.connect"
PUSH: Final = "operation/Consent.push"
ERRANDS: Final = {  # what an app may set going, each time for the patient to confirm here
    MANAGE: "May ask to share with other servers. You decide each time, with your password",
    CONNECT: "May ask to fetch from other servers into this record. You decide each time",
    PUSH: "May ask to send records by Direct mail. You decide each time, with your password",
}
OLDER: Final = {  # as the same was spelled at the connectathon of 2017
    "Consent.authorize": MANAGE,
    "Consent/flow": MANAGE,
    "Consent.connect": CONNECT,
    "Consent.push": PUSH,
}
PLAIN: Final = frozenset({OPENID, FHIR_USER, OFFLINE, LAUNCH, LAUNCH_PATIENT, *ERRANDS})
NAMELESS: Final = frozenset({*IDENTITY, *SUPPORTING})  # leave with what names them, by no rule

_CODE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SYSTEM: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9:/._#-]{1,200}", re.ASCII)


class Context(StrEnum):
    """Whose data a scope speaks of (SMART App Launch 2.2 §3.0.2)."""

    PATIENT = "patient"
    USER = "user"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Line:
    """One resource scope as it was written, and as it was read."""

    text: str
    scope: Scope

    @property
    def rule(self) -> Rule:
        """What it covers when it is read. Its categories, where the rules of a grant have them.

        A narrowing that rules do not have (`intent`, `type`) stands in the scopes of each token.
        """
        one = self.scope
        every = one.type == "*"
        types = (
            tuple(each for each in kinds.KINDS if each not in NAMELESS) if every else (one.type,)
        )
        named = [value.rpartition("|")[2] for name, value in one.query if name == "category"]
        return Rule(types, tuple(each for each in named if each in kinds.CATEGORIES))

    @property
    def words(self) -> str:
        """What it opens, for the person who is asked. Words of ours alone: no text of the app's."""
        one = self.scope
        named = "Everything in the record" if one.type == "*" else kinds.KINDS[one.type].label
        only = [
            code.replace("-", " ") if code in kinds.CATEGORIES else f"{name} code {code}"
            for name, value in one.query
            for code in (value.rpartition("|")[2],)
        ]
        return f"{named}: only {', '.join(only)}" if only else named


@dataclass(frozen=True)
class Wishes:
    """The scopes of one request or one grant: resource lines, and the plain ones beside them."""

    lines: tuple[Line, ...] = ()
    plain: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """Write them as OAuth does: divided by spaces, plain ones first."""
        return " ".join([*sorted(self.plain), *(line.text for line in self.lines)])

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """What a grant of these covers."""
        return tuple(
            line.rule
            for line in self.lines
            if "r" in line.scope.letters and line.scope.type not in NAMELESS
        )

    def within(self, other: "Wishes") -> bool:
        """Say whether nothing here goes beyond `other`: a refresh asks for less (RFC 6749 §6)."""
        return self.plain <= other.plain and all(
            any(_within(line.scope, wide.scope) for wide in other.lines) for line in self.lines
        )

    def bounded(self, registered: "Wishes") -> "Wishes":
        """Return these within what the app registered for; without lines there, as they are."""
        if not registered.lines:
            return self
        kept = (
            line
            for line in self.lines
            if any(_within(line.scope, wide.scope) for wide in registered.lines)
        )
        return replace(self, lines=tuple(kept))

    @property
    def errands(self) -> dict[str, str]:
        """What it may set going, by scope, in words."""
        return {scope: words for scope, words in ERRANDS.items() if scope in self.plain}

    @property
    def sends(self) -> bool:
        """Whether some line is for sending."""
        return any(line.scope.letters & SENDING for line in self.lines)

    def only(self, texts: Iterable[str]) -> "Wishes":
        """Return these with only the named lines and errands left; other plain ones stay."""
        kept = set(texts)
        lines = tuple(line for line in self.lines if line.text in kept)
        return Wishes(lines, self.plain - (ERRANDS.keys() - kept))


def read(text: str) -> Wishes:
    """Read the scopes of a request (RFC 6749 §3.3). Raises InvalidInput.

    Plain scopes that mean nothing here ("profile", "email") are left out, as RFC 6749 permits. A
    resource scope that is malformed or could not be enforced refuses the whole request.
    """
    words = [OLDER.get(word, word) for word in text.split(" ")]
    if len(text) > scopes.LONGEST or len(words) > MOST_WORDS:
        raise InvalidInput("Those are too many scopes.")
    lines = [Line(word, one) for word in words if (one := scopes.read_one(word)) is not None]
    for line in lines:
        _must_be_plain(line.scope)
    return Wishes(tuple(dict.fromkeys(lines)), frozenset(words) & PLAIN)


def _must_be_plain(one: Scope) -> None:
    """Refuse what a person could not be told in words: alternatives, empty and odd codes."""
    for name, value in one.query:
        system, bar, code = value.rpartition("|")
        known = name != "category" or code in kinds.CATEGORIES
        if not (_CODE.fullmatch(code) and known and (not bar or _SYSTEM.fullmatch(system))):
            raise InvalidInput("A scope is narrowed by what cannot be granted here.")


def grantable(asked: Wishes, contexts: Collection[Context]) -> Wishes:
    """Return what can be given of what was asked: lines of these contexts, reading only.

    A line that asks for more is given as one that reads (`.*` as `.read`, `.cruds` as `.rs`); one
    that does not read at all is left out.
    """
    lines = (_reading(line) for line in asked.lines if line.scope.context in contexts)
    return Wishes(tuple(dict.fromkeys(line for line in lines if line)), asked.plain)


def sendable(asked: Wishes, contexts: Collection[Context]) -> Wishes:
    """Return the same for what would be sent: lines of these contexts without their reading."""
    lines = (_sending(line) for line in asked.lines if line.scope.context in contexts)
    return Wishes(tuple(dict.fromkeys(line for line in lines if line)))


def both(asked: Wishes, offered: Wishes) -> Wishes:
    """Return what both let read, in the words of the one that says less; plain scopes fall away.

    The context is that of what was asked: a server may say `system/` where one person is meant.
    """
    lines = [
        line
        for one in asked.lines
        for other in offered.lines
        if (line := _narrower(one, _within_context(other, one.scope.context))) is not None
    ]
    return grantable(Wishes(tuple(dict.fromkeys(lines))), tuple(Context))


def _within_context(line: Line, context: str) -> Line:
    _, slash, rest = line.text.partition("/")
    return Line(context + slash + rest, replace(line.scope, context=context))


def _narrower(one: Line, other: Line) -> Line | None:
    """Return whichever of two lines lies within the other, reading alone; None where neither."""
    first, second = _reading(one), _reading(other)
    if first is None or second is None:
        return None
    if _within(first.scope, second.scope):
        return first
    return second if _within(second.scope, first.scope) else None


def reaching(rules: Iterable[Rule], since: datetime | None) -> tuple[Rule, ...]:
    """Return rules whose dated kinds begin at `since`; lists that hold for life stay whole."""
    if since is None:
        return tuple(rules)
    return tuple(
        replace(rule, types=types, since=from_)
        for rule in rules
        for types, from_ in (
            (tuple(each for each in rule.types if each not in DATED), None),
            (tuple(each for each in rule.types if each in DATED), since),
        )
        if types
    )


def _reading(line: Line) -> Line | None:
    if "r" not in line.scope.letters:
        return None
    return _with(line, "rs", "read")


def _sending(line: Line) -> Line | None:
    return _with(line, "cud", "write") if line.scope.letters & SENDING else None


def _with(line: Line, letters: str, version_1: str) -> Line:
    """Return a line with some of its letters left, spelled in the version it was written in."""
    kept = line.scope.letters & frozenset(letters)
    if kept == line.scope.letters:
        return line
    head, dot, rest = line.text.partition(".")
    said, mark, query = rest.partition("?")
    less = version_1 if said in scopes.VERSION_1 else "".join(c for c in letters if c in kept)
    return Line(head + dot + less + mark + query, replace(line.scope, letters=kept))


def _within(one: Scope, wide: Scope) -> bool:
    return (
        one.context == wide.context
        and wide.type in {"*", one.type}
        and one.letters <= wide.letters
        and set(wide.query) <= set(one.query)
    )

"""Sentences that know which faults of a foreign server they tell of.

A fault is named where it is met; what a ledger keeps beside the sentence is this name, and a
report (`phr.conformance`) never reads the words.
"""

from enum import StrEnum
from typing import Self


class Fault(StrEnum):
    """The classes of what goes wrong with a hospital's interface."""

    NOT_FOR_APPS = "not-for-apps"
    NOT_THERE = "not-there"
    QUESTION_REFUSED = "question-refused"
    SERVER_ERROR = "server-error"
    WEB_PAGE = "web-page"
    XML = "xml"
    EMPTY = "empty"
    TOO_LARGE = "too-large"
    UNREADABLE = "unreadable"
    OTHER_RECORD = "other-record"
    TOO_SLOW = "too-slow"
    BROKE_OFF = "broke-off"
    UNPACKED = "unpacked"
    REDIRECT = "redirect"
    CERTIFICATE = "certificate"
    UNREACHABLE = "unreachable"
    OUTSIDE = "outside"
    CIRCLE = "circle"
    PARTLY = "partly"
    THROTTLED = "throttled"
    BY_CATEGORY = "by-category"
    NOT_AT_ONCE = "not-at-once"
    SIGN_IN = "sign-in"
    OTHER_PERSON = "other-person"
    NO_RECORD = "no-record"
    BAD_ID = "bad-id"
    MALFORMED = "malformed"
    FILES = "files"
    ELSEWHERE = "elsewhere"
    SHORT = "short"
    NO_TOTAL = "no-total"
    MORE = "more"
    UNDECLARED = "undeclared"
    UNANSWERED = "unanswered"
    REFUSED = "refused"


class Told(str):
    """A sentence for people, and the faults it tells of."""

    __slots__ = ("faults",)
    faults: frozenset[Fault]

    def __new__(cls, sentence: str, *faults: Fault) -> Self:
        """Name the faults where the sentence is made."""
        made = super().__new__(cls, sentence)
        made.faults = frozenset(faults)
        return made


def faults_in(sentence: str | None) -> tuple[Fault, ...]:
    """Return the faults that a sentence carries, in the order of their class."""
    carried = sentence.faults if isinstance(sentence, Told) else frozenset()
    return tuple(fault for fault in Fault if fault in carried)


def kept_as(sentence: str | None) -> str:
    """Return the faults of a sentence as a row keeps them: names with a space between."""
    return " ".join(faults_in(sentence))


def read_back(kept: str) -> tuple[Fault, ...]:
    """Return the faults of `kept_as`."""
    return tuple(map(Fault, kept.split()))

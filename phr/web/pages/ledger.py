"""A connection and its ledger in words people understand. Pure: rows in, words out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from phr import clock
from phr.fhir.kinds import KINDS
from phr.store import connections
from phr.store.models import (
    Connection,
    ConnectionState,
    LedgerLine,
    LedgerState,
    Pull,
    PullState,
)

DOCUMENT_FILES = "Documents' files"
NOT_SIGNED_IN = "You have not signed in at this hospital yet."
CALM = "What was fetched before is kept and shown with its date."


@dataclass(frozen=True, slots=True)
class Tally:
    """One kind of record in one pull: the word (a mark's class) and the text beside it."""

    label: str
    word: str
    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Card:
    """Everything that is said about one connection. `word` is (class of the mark, text)."""

    id: int
    name: str
    demo: bool
    host: str
    word: tuple[str, str]
    last: datetime | None
    following: datetime | None
    headline: str
    due: str | None
    kept: int
    tallies: tuple[Tally, ...] = ()
    empty: tuple[str, ...] = ()  # labels of kinds that were asked and of which none is listed
    closed: tuple[str, ...] = ()  # labels of kinds that the hospital does not offer
    running: bool = False
    may: frozenset[str] = field(default_factory=frozenset)


def card(
    row: Connection,
    pull: Pull | None,
    lines: Sequence[LedgerLine],
    *,
    kept: int,
    running: bool,
    host: str,
) -> Card:
    """Put one connection into words; `kept` counts its records here, `host` is its server."""
    tallies = tallies_of(lines)
    shown = [one for one in tallies if one.word != "none" and one.text]
    return Card(
        id=row.id,
        name=row.name,
        demo=bool(row.demo),
        host=host,
        word=_word(row, pull, running=running),
        last=row.last_pull_at,
        following=row.next_pull_at if row.state == ConnectionState.ACTIVE else None,
        headline=_headline(row, pull, lines, running=running),
        due=_due(row),
        kept=kept,
        tallies=tuple(shown),
        empty=tuple(one.label for one in tallies if not one.text),
        closed=tuple(one.label for one in tallies if one.word == "none" and one.text),
        running=running,
        may=_possible(row, running=running),
    )


STANDING = {
    ConnectionState.NEEDS_REAUTHORISATION: ("wait", "Sign in again"),
    ConnectionState.PAUSED: ("paused", "Paused"),
    ConnectionState.DRAFT: ("wait", "Not signed in yet"),
}
ENDED = {
    PullState.DONE: ("fresh", "Up to date"),
    PullState.PARTIAL: ("wait", "Answered, not complete"),
    PullState.FAILED: ("wait", "No answer"),
    PullState.STOPPED: ("paused", "Stopped"),
    PullState.RUNNING: ("wait", "Interrupted, goes on soon"),
}


def of_file(pull: Pull | None) -> tuple[str, str] | None:
    """Return what is said of a file: nobody brings it up to date, it was read once."""
    if pull is None:
        return None
    if pull.state == PullState.FAILED:
        return "wait", "Nothing could be read" if pull.sentence else "Nothing could be kept"
    if pull.state == PullState.PARTIAL:
        return "wait", "Not all of it could be kept"
    return ("fresh", "Read") if pull.state == PullState.DONE else None


def is_unread(row: Connection, pull: Pull | None) -> bool:
    """Say whether a file was brought of which nothing could be read."""
    failed = pull is not None and pull.state == PullState.FAILED and bool(pull.sentence)
    return row.kind == connections.UPLOAD and failed


def _word(row: Connection, pull: Pull | None, *, running: bool) -> tuple[str, str]:
    standing = STANDING.get(ConnectionState(row.state))
    if standing is not None:
        return standing
    if row.kind == connections.UPLOAD and not running and (said := of_file(pull)) is not None:
        return said
    if running:
        return "fresh", "Asking now"
    return ("none", "Not asked yet") if pull is None else ENDED[PullState(pull.state)]


def _due(row: Connection) -> str | None:
    """Return what the person is asked to do, in one sentence."""
    if row.state == ConnectionState.NEEDS_REAUTHORISATION:
        return row.sentence or "The hospital wants you to sign in again."
    if row.state == ConnectionState.PAUSED and row.sentence:
        return row.sentence
    return None


def _headline(
    row: Connection, pull: Pull | None, lines: Sequence[LedgerLine], *, running: bool
) -> str:
    if row.state == ConnectionState.DRAFT:
        return NOT_SIGNED_IN
    if pull is None:
        return "Nothing was asked for yet."
    if running or pull.state == PullState.RUNNING:
        return f"{counted(lines)[0]:,} records looked at so far"
    if pull.state in {PullState.FAILED, PullState.STOPPED}:
        if row.kind == connections.UPLOAD:
            return pull.sentence or "Everything in it was set aside."
        return pull.sentence or "The hospital did not answer."
    return _offered(row, pull, lines)


def _offered(row: Connection, pull: Pull, lines: Sequence[LedgerLine]) -> str:
    """Return the words of DESIGN §7.14: what the interface offered on a day, N of N."""
    (got, claimed), on = counted(lines), clock.day_here(pull.started_at)
    if row.kind == connections.UPLOAD:
        return f"Read on {on}: {got:,} records"
    missing = _missing(lines)
    if missing:
        return f"{got:,} records arrived on {on}. Missing: {', '.join(missing)}."
    what = "Everything this hospital's interface offered"
    what += "" if pull.full else " as new or changed"
    return f"{what} on {on}: {got:,} of {claimed:,}"


def _missing(lines: Sequence[LedgerLine]) -> list[str]:
    """Return in words what was offered or asked for and did not arrive."""
    found = []
    for label, some in _by_label(lines).items():
        got, claimed = counted_of(some)
        if any(line.state == LedgerState.BROKEN for line in some):
            found.append(f"{label} (no answer)" if not got else f"part of {label}")
        elif got < claimed:
            found.append(f"{claimed - got:,} of {claimed:,} {label}")
    return found


def _possible(row: Connection, *, running: bool) -> frozenset[str]:
    """Return what a person may do with it now."""
    state = ConnectionState(row.state)
    may = {"remove"}
    if row.kind in connections.PLACES:
        return frozenset(may)
    if state in {ConnectionState.NEEDS_REAUTHORISATION, ConnectionState.DRAFT}:
        may.add("sign_in")
    if state == ConnectionState.ACTIVE:
        may |= {"pause", "sign_in_again"}
        if not running:
            may.add("pull")
    if state == ConnectionState.PAUSED:
        may |= {"resume"} if row.credentials else {"sign_in"}
    if row.client and row.client.get("consent"):  # another Homeport asks by a consent token
        may -= {"sign_in", "sign_in_again"}
    return frozenset(may)


def counted(lines: Sequence[LedgerLine]) -> tuple[int, int]:
    """Return how many records arrived and how many were offered; files are counted apart."""
    return counted_of([line for line in lines if line.type != "Binary"])


def counted_of(lines: Sequence[LedgerLine]) -> tuple[int, int]:
    """Return arrived and offered of some lines; what the hospital refused was not offered."""
    got = sum(line.got for line in lines)
    offered = sum(
        max(line.got, line.claimed or 0) for line in lines if line.state != LedgerState.REFUSED
    )
    return got, max(got, offered)


def _by_label(lines: Sequence[LedgerLine]) -> dict[str, list[LedgerLine]]:
    found: dict[str, list[LedgerLine]] = {}
    for line in lines:
        found.setdefault(label_of(line), []).append(line)
    return found


def is_empty(line: LedgerLine) -> bool:
    """Say whether a kind was asked for, without trouble, and none is listed."""
    return line.state == LedgerState.DONE and not (line.got or line.claimed or line.quarantined)


def in_order(lines: Sequence[LedgerLine]) -> list[LedgerLine]:
    """Return the lines worth a row: trouble first, then the fullest, refusals last."""
    rank = {LedgerState.BROKEN: 0, LedgerState.REFUSED: 2}
    shown = [line for line in lines if not is_empty(line)]
    return sorted(
        shown, key=lambda line: (rank.get(LedgerState(line.state), 1), -line.got, line.chain)
    )


def tallies_of(lines: Sequence[LedgerLine]) -> list[Tally]:
    """Return one tally per kind of record, the fullest first; several searches count together."""
    tallies = [
        (_tally(label, some), counted_of(some)[0]) for label, some in _by_label(lines).items()
    ]
    return [tally for tally, _ in sorted(tallies, key=lambda one: (-one[1], one[0].label))]


def label_of(line: LedgerLine) -> str:
    """Return the words for what a line asked about."""
    if line.type == "Binary":
        return DOCUMENT_FILES
    if line.type == "*":
        return "Everything at once"
    kind = KINDS.get(line.type)
    return kind.label if kind else line.chain


def _tally(label: str, lines: Sequence[LedgerLine]) -> Tally:
    got, claimed = counted_of(lines)
    notes = tuple(dict.fromkeys(line.sentence for line in lines if line.sentence))
    states = {line.state for line in lines}
    if LedgerState.ASKING in states:
        return Tally(label, "fresh", f"{got:,} so far")
    if LedgerState.BROKEN in states:
        return Tally(label, "wait", f"{got:,} of {claimed:,}" if got else "Not answered", notes)
    if states == {LedgerState.REFUSED}:
        return Tally(label, "none", "Not offered to apps", notes)
    if not claimed:
        return Tally(label, "fresh", "", notes)
    whole = f"{got:,} of {claimed:,}"
    word = "fresh" if got >= claimed else "wait"
    return Tally(label, word, whole + _news(lines), notes if word == "wait" else ())


def _news(lines: Sequence[LedgerLine]) -> str:
    new, changed = sum(line.new for line in lines), sum(line.changed for line in lines)
    if new == sum(line.got for line in lines):
        new = 0  # the first time all are new: no news
    refused = sum(line.quarantined for line in lines)
    parts = [
        f"{number:,} {word}"
        for number, word in ((new, "new"), (changed, "changed"), (refused, "set aside"))
        if number
    ]
    return ", " + ", ".join(parts) if parts else ""


def answer(cards: Sequence[Card]) -> tuple[str, str]:
    """Return the heading of the page, which is its answer, and the sentence below it."""
    live = [one for one in cards if one.word[1] != "Not signed in yet"]
    if not live:
        return "No hospital is connected yet", "Connect one, or bring a file from a portal."
    fine = [one for one in live if one.word[0] == "fresh"]
    asking = [one for one in live if one.word[1] == "Sign in again"]
    if len(fine) == len(live):
        head = f"{_these(len(live))} up to date"
    elif len(live) == 1:
        paused = live[0].word[1] == "Paused"
        head = "Your hospital is paused" if paused else "Your hospital is not up to date"
    else:
        are = "is" if len(fine) == 1 else "are"
        head = f"{len(fine)} of {len(live)} hospitals {are} up to date"
    below = []
    if asking:
        who = "One wants" if len(asking) == 1 else f"{len(asking)} want"
        below.append(f"{who} you to sign in again.")
    if len(fine) < len(live):
        below.append("Nothing you already have is lost.")
    return head, " ".join(below)


def _these(number: int) -> str:
    return "Your hospital is" if number == 1 else f"All {number} hospitals are"

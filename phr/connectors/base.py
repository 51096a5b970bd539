"""The contract of a connector: plain values in, pages of received bytes out, no database.

A connector never schedules, never stores tokens and never decides what a record means.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from phr.errors import PhrError
from phr.fhir.record import Item
from phr.http import Http


class Outcome(StrEnum):
    """How a chain (one search, its pages in sequence) stands after a page."""

    MORE = "more"
    DONE = "done"
    REFUSED = "refused"  # the server said no
    BROKEN = "broken"  # it tried and something failed


@dataclass(frozen=True, slots=True)
class Fetched:
    """One page of one chain, or the news that the chain is over.

    `next_url` is where to go on after this page (also after a BROKEN one: where to try again);
    `total` is what the server claims; `wanted` counts what we asked for one by one. `asked_at` is
    the server's clock when the chain began: the next pull may ask for changes since then.
    """

    chain: str
    type: str
    outcome: Outcome
    items: Sequence[Item] = ()
    next_url: str | None = None
    total: int | None = None
    sentence: str | None = None
    asked_at: datetime | None = None
    pages: int = 0
    missing: int = 0  # of single reads: how many were refused or failed


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a pull begins. A `full` one asks for everything, else for changes `since` per chain.

    `resume` and `finished` are of an interrupted run; `known` are the "Type/id" of supporting
    records kept already, which an incremental pull need not read again.
    """

    full: bool = True
    since: Mapping[str, datetime] = field(default_factory=dict)
    resume: Mapping[str, str] = field(default_factory=dict)
    finished: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Attachment:
    """A fetched document: the media type as the server sent it, and the bytes."""

    media_type: str
    body: bytes = field(repr=False)


class Tokens(Protocol):
    """Hands out access tokens; safe to use from several threads."""

    def current(self) -> str:
        """Return a token good for the next request, renewed ahead of need."""

    def renewed(self, dead: str) -> str:
        """Return another token than the one just refused; raises NeedsReauthorisation."""


@dataclass(frozen=True, slots=True)
class Remote:
    """What a connector is told about a connection: plain values and the two ways out."""

    base_url: str
    patient: str
    http: Http
    tokens: Tokens
    everything: bool = False
    quirks: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 4
    release: str = ""  # of FHIR, as the server told it: "4.0.1", "1.0.2"


class Connector(Protocol):
    """What `phr.pull` needs. Raises only ConnectorError and NetError children."""

    def fetch(self, cursor: Cursor) -> Iterator[Fetched | None]:
        """Yield pages as they arrive; None says that nothing arrived for a moment."""


Document = tuple[str, Attachment | PhrError]  # its address, and what came or why nothing did


class LiveConnector(Connector, Protocol):
    """A connector to a server that is there: it is made of a `Remote`."""

    def attachments(self, urls: Sequence[str]) -> Iterator[Document | None]:
        """Fetch documents inside the connection's origin, a few at a time, as they come.

        Yields None when it is quiet; what ends the run is raised.
        """

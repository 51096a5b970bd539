"""The value types that travel between rooms: a Record as it was kept, and a Selection of records.

Not here: how they are stored (`phr.store.records`) or shown (`phr.chart`, `phr.views`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from phr.fhir import document
from phr.fhir.document import Item
from phr.fhir.labels import Label
from phr.fhir.older import as_r4

__all__ = [
    "BESIDE",
    "CONTRIBUTED",
    "OWN",
    "UNSAID",
    "UPLOAD",
    "Element",
    "Item",
    "Origin",
    "Record",
    "Selection",
    "once",
]

OWN: Final = "own"  # kinds of places without a server: the patient's own statements,
UPLOAD: Final = "upload"  # and the files of one name,
CONTRIBUTED: Final = "contributed"  # what one recipient sent and the patient accepted
BESIDE: Final = "Documents from "  # how the name of a place for what documents say begins
UNSAID = "unsaid"  # among the categories of a Selection: records that say none, too


Read = TypeVar("Read")


@dataclass(frozen=True)
class Origin:
    """Where records came from, in words: one connection (hospital, file, own statement)."""

    connection_id: int
    name: str
    kind: str  # "smart", "upload", ...
    demo: bool = False
    as_of: datetime | None = None  # last successful pull
    address: str = ""  # of the endpoint; "" where nothing is pulled from

    @property
    def transcribes(self) -> bool:
        """Say whether what Homeport makes of documents is kept here."""
        return self.kind == UPLOAD or (self.kind == CONTRIBUTED and self.name.startswith(BESIDE))

    @property
    def is_brought(self) -> bool:
        """Say whether somebody brought it, so that no connected hospital answers for it."""
        return self.kind in (UPLOAD, CONTRIBUTED)


@dataclass(frozen=True)
class Record:
    """One version of one FHIR resource: the received bytes and what the index knows of them.

    `local_id` is ours (unique in the vault, FHIR id syntax, 16 hex digits); `remote_id` is the
    sender's. `when` is the clinically relevant instant for sorting (None: undated). `withdrawn`
    says that the source no longer offers it.
    """

    pk: int
    local_id: str
    connection_id: int
    type: str
    remote_id: str
    version: int
    received_at: datetime
    when: datetime | None
    labels: Label
    withdrawn: bool
    body: bytes = field(repr=False)
    splices: bytes = field(repr=False, default=b"")  # see fhir.references.pack

    @property
    def document(self) -> Mapping[str, Any]:
        """The resource as plain values; decimals keep their digits (`5.40` stays `5.40`).

        Elements of older releases have R4's names here (`phr.fhir.older`); the bytes are as sent.
        """
        held: Mapping[str, Any] | None = self.__dict__.get("_document")
        if held is None:
            held = self.__dict__["_document"] = as_r4(document.parse(self.body))
        return held


class Element(dict[str, Any]):
    """An element that came many times byte for byte the same: one object in many documents.

    Nobody changes it. What was read of it once stays with it (`once`), and goes with it.
    """

    __slots__ = ("known",)

    def __init__(self, value: Mapping[str, Any]) -> None:
        """Begin with nothing read."""
        super().__init__(value)
        self.known: dict[Callable[[Any], Any], Any] = {}


def once(read: Callable[[Any], Read], value: Any) -> Read:
    """Return what `read` makes of a value; of an Element it is made once. It must not change."""
    if type(value) is not Element:
        return read(value)
    try:
        made: Read = value.known[read]
    except KeyError:
        made = value.known[read] = read(value)
    return made


@dataclass(frozen=True)
class Selection:
    """What a chart function needs: which records, in which order, how many.

    `codes` are "system|code" pairs ORed together; `since` (inclusive) and `until` (exclusive)
    bound the clinically relevant instant; `before` continues a newest-first page: (when in ms, pk)
    of the last row shown. `order` is "newest" or "oldest". `limit` None means all.
    """

    types: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    before: tuple[int, int] | None = None
    order: str = "newest"
    limit: int | None = None
    connection_id: int | None = None
    timeline: bool = False  # only what belongs on the timeline
    received_since: datetime | None = None
    withdrawn: bool = True  # include records that the source no longer offers

"""Which supporting records (practitioners, places, medications) a set of records refers to.

On their own they would tell of hidden records: the name of a clinic can be a diagnosis. So they
leave only beside a released record that refers to them, or to one that does.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

from phr.fhir import references
from phr.fhir.record import Record
from phr.sharing.provision import SUPPORTING

NAMED = (b"urn:", *(name.encode() for name in SUPPORTING))  # looked for before anything is read
MOST_KEPT = 32  # sets remembered of one vault
STEPS = 4  # a role names a practitioner, who is of an organization, which is part of another


@lru_cache(maxsize=8192)
def named_by(said: bytes) -> tuple[str, str] | None:
    """Return (type or "" for a URN, remote id) of a reference that may lead to such a record."""
    target = references.target(references.unescaped(said))
    if target is None or (target.type and target.type not in SUPPORTING):
        return None
    return target.type, target.id


class Wanted:
    """What the records let out so far refer to: (connection, type or "" for a URN, remote id)."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._targets: set[tuple[int, str, str]] = set()

    def note(self, record: Record) -> None:
        """Remember what a released record refers to. References never cross connections."""
        body = record.body
        if not any(name in body for name in NAMED):
            return
        for said in references.said_in(body, record.splices):
            named = named_by(said)
            if named is not None:
                self._targets.add((record.connection_id, *named))

    def add(self, targets: Iterable[tuple[int, str, str]]) -> None:
        """Remember what was found in records before: see `named_by`, beside the connection."""
        self._targets.update(targets)

    def __contains__(self, record: Record) -> bool:
        """Say whether a record was referred to."""
        named = (record.connection_id, record.type, record.remote_id)
        urn = (record.connection_id, "", record.remote_id.lower())
        return named in self._targets or urn in self._targets

    def pick(self, supporting: Sequence[Record]) -> Iterator[Record]:
        """Yield those of `supporting` that are referred to, and those that these refer to."""
        waiting = list(supporting)
        for _ in range(STEPS):
            found = [record for record in waiting if record in self]
            waiting = [record for record in waiting if record not in self]
            for record in found:
                self.note(record)
            yield from found


def closed(found: Iterable[Record]) -> list[Record]:
    """Return records without those supporting ones that none of the others refers to."""
    together = list(found)
    supporting = [record for record in together if record.type in SUPPORTING]
    if not supporting:
        return together
    wanted = Wanted()
    for record in together:
        if record.type not in SUPPORTING:
            wanted.note(record)
    kept = {record.pk for record in wanted.pick(supporting)}
    return [r for r in together if r.type not in SUPPORTING or r.pk in kept]


# ------------------------------------------------------------------ remembered


class Kept:
    """Which records were referred to, as of a number of commits to their file; for each question.

    To find them out, everything that is released must be read: for a door that is asked again and
    again that is kept until anything is written.
    """

    def __init__(self) -> None:
        """Remember nothing."""
        self._lock = threading.Lock()
        self._of: WeakKeyDictionary[object, dict[Hashable, tuple[int, frozenset[int]]]] = (
            WeakKeyDictionary()
        )

    def get(
        self, file: object, commits: int, question: Hashable, ask: Callable[[], frozenset[int]]
    ) -> frozenset[int]:
        """Return the answer to a question about a file as it is now; `ask` finds it out."""
        with self._lock:
            at, answer = self._of.get(file, {}).get(question, (-1, frozenset()))
        if at == commits:
            return answer
        answer = ask()
        with self._lock:
            known = self._of.setdefault(file, {})
            if len(known) >= MOST_KEPT:
                known.clear()
            known[question] = (commits, answer)
        return answer

    def outlive(self, file: object, commits: int) -> None:
        """Carry what held at `commits` over the next commit, which touched no record."""
        with self._lock:
            known = self._of.get(file, {})
            for question, (at, answer) in known.items():
                if at == commits:
                    known[question] = (commits + 1, answer)

"""Whether other bytes of a record that the vault has are news.

Not what came out of turn, nor what differs only in the stamps that some servers renew at each
reading. What is done about news: `phr.keep`.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy.orm import Session

from phr.errors import InvalidInput
from phr.fhir import document
from phr.store import bodies, known
from phr.store.known import Known


class Came(Protocol):
    """A record that was offered: its key and the hash of its bytes."""

    key: int
    hash: bytes


class Judge:
    """Tells it for the records of one group.

    `there` is what the vault has, by key; `came` is all that the group holds, in order; `live` says
    that a server offers it now, not a file that somebody brings.
    """

    def __init__(
        self,
        session: Session,
        there: dict[int, known.Row],
        came: Sequence[Came],
        *,
        live: bool,
    ) -> None:
        self.known = there
        self._session = session
        self._live = live
        self._came = came
        self._last: dict[int, bytes] | None = None

    def nothing_new(self, have: Known, hash_: bytes, body: bytes) -> bool:
        """Say whether the bytes are an earlier version out of turn, or differ in meta only.

        A file that holds two versions of one resource must change nothing when it comes again; an
        uploaded file never brings back what is in the history. A live server going back to earlier
        content does: what it offers now is current.
        """
        if self._last is None:
            times = Counter(one.key for one in self._came)
            self._last = {one.key: one.hash for one in self._came if times[one.key] > 1}
        settles = not self._live or self._last.get(have.key) == have.hash
        if settles and self._in_history(have.pk, hash_):
            return True
        return self._same_but_meta(have.pk, body)

    def _in_history(self, pk: int, hash_: bytes) -> bool:
        return (
            self._session.connection()
            .exec_driver_sql("SELECT 1 FROM record_version WHERE pk = ? AND hash = ?", (pk, hash_))
            .first()
            is not None
        )

    def _same_but_meta(self, pk: int, body: bytes) -> bool:
        """Some servers put another lastUpdated or versionId into meta at each reading."""
        blob = (
            self._session.connection()
            .exec_driver_sql("SELECT body FROM record WHERE pk = ?", (pk,))
            .scalar_one()
        )
        try:
            return _without_stamps(bodies.unpack(self._session, blob)) == _without_stamps(body)
        except InvalidInput:
            return False


def _without_stamps(body: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = {name: found.raw for name, found in document.fields(body).items()}
    if "meta" in fields:
        meta = document.strict(fields["meta"])
        if isinstance(meta, dict):
            fields["meta"] = {
                name: value
                for name, value in meta.items()
                if name not in ("lastUpdated", "versionId")
            }
    return fields

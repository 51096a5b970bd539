"""Taking single records out of what is shared: the list that both sharing pages show.

For the owner's eyes only. What a provision covers is decided in `phr.sharing.provision`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from phr.chart.plain import day_words
from phr.chart.titles import kind_words, title, when_text
from phr.errors import InvalidInput
from phr.fhir.labels import Label
from phr.fhir.record import Origin, Record, Selection
from phr.fhir.references import key_of
from phr.sharing import gate, given
from phr.sharing import provision as policy
from phr.sharing.provision import Provision
from phr.store import records
from phr.store.vault import Vault
from phr.web.forms import Form

AT_ONCE = 50  # records on one page
PAGES = 20  # what lies behind is found by its words
AT_MOST = 300  # records taken out one by one, in one share
TOO_MANY = (
    f"At most {AT_MOST} records can be left out one by one. Leave out a whole kind, or share fewer"
    " years. Nothing was shared."
)


@dataclass(frozen=True, slots=True)
class Choice:
    """One record that may be taken out, as a person recognises it."""

    id: str
    title: str
    what: str
    when: str
    place: str
    sensitive: bool
    out: bool


@dataclass(frozen=True, slots=True)
class Picking:
    """One page of the list. `held`: what is taken out already and not on this page."""

    kinds: Mapping[str, str]
    kind: str
    words: str
    number: int
    choices: Sequence[Choice]
    is_more: bool
    is_last: bool
    held: Sequence[str]


def taken_out(form: Form) -> frozenset[str]:
    """Return the local ids that a form takes out: all, or InvalidInput beyond AT_MOST."""
    given = frozenset(each for each in form.all("without") if key_of(each) is not None)
    if len(given) > AT_MOST:
        raise InvalidInput(TOO_MANY)
    return given


def page_of(
    session: Any, vault: Vault, provision: Provision, form: Form, *, keeps: Collection[str] = ()
) -> Picking:
    """Return the page of the list that a form asks for: one kind, some words, newest first.

    `keeps`: what is taken out for good (of a live grant) and not offered any more.
    """
    bare = replace(provision, excluded=frozenset(keeps))
    parts = given.pieces(bare)
    kind = form.get("kind") if form.get("kind") in parts else ""
    words = form.get("words").strip()[:100]
    number = _number(form)
    where = policy.compiled(replace(bare, rules=parts[kind].rules) if kind else bare).counted
    limit = number * AT_ONCE + 1
    found = (
        records.search(session, vault, words, limit=limit, where=where)
        if words
        else records.select(session, vault, Selection(limit=limit), where=where)
    )
    shown = found[(number - 1) * AT_ONCE : number * AT_ONCE]
    out = provision.excluded - frozenset(keeps)
    on_page = {record.local_id for record in shown}
    return Picking(
        kinds={key: piece.title for key, piece in parts.items()},
        kind=kind,
        words=words,
        number=number,
        choices=_choices(session, shown, out),
        is_more=len(found) == limit,
        is_last=number >= PAGES,
        held=sorted(out - on_page),
    )


def left_out(session: Any, vault: Vault, local_ids: Collection[str]) -> Sequence[Choice]:
    """Return what is taken out one by one, as far as it is still in the record."""
    keys = [key for each in sorted(local_ids) if (key := key_of(each)) is not None]
    found = records.by_keys(session, vault, keys) if keys else []
    return _choices(session, found, local_ids)


def _number(form: Form) -> int:
    """Return the page asked for, which stands in the pressed button: `pick:2`."""
    number = form.get("do").partition(":")[2]
    return min(max(int(number), 1), PAGES) if number.isascii() and number.isdigit() else 1


def _choices(session: Any, found: Sequence[Record], out: Collection[str]) -> Sequence[Choice]:
    origins = gate.origins(session) if found else {}
    return [_choice(record, origins, out) for record in found]


def _choice(record: Record, origins: Mapping[int, Origin], out: Collection[str]) -> Choice:
    origin = origins.get(record.connection_id)
    return Choice(
        id=record.local_id,
        title=title(record.document),
        what=kind_words(record.type),
        when=day_words(when_text(record.document)) or "no date given",
        place=origin.name if origin else "an unknown source",
        sensitive=bool(record.labels & ~Label.PRIVATE),
        out=record.local_id in out,
    )

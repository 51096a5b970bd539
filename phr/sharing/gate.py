"""The only way out: no record leaves except through `release` (the owner's copy: `owner_export`).

Decide, count and write the audit line in one short urgent transaction; only after its commit are
bodies read, with the compiled provision inside the query, and each is checked again. What is sent
in pieces looks before each piece whether the grant still stands. Doors contain no decisions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache, partial, reduce
from operator import or_
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from phr import clock, courtesy, ids
from phr.chart.decision import Decision
from phr.errors import Denied, Ended, NotFound, ScopeTooSmall, TokenRefused
from phr.fhir.labels import Label
from phr.fhir.record import Record, Selection
from phr.sharing import bursts, clients, closure, endings, grants, handles, orders, scopes
from phr.sharing import provision as policy
from phr.sharing.handles import Bearer
from phr.sharing.provision import SENSITIVE, Action, Compiled, Provision
from phr.sharing.released import (
    Owned,
    Released,
    Terms,
    chosen,
    decided_within,
    origins,
    outlive,
    place_names,
)
from phr.store import audit, records
from phr.store.database import Priority, rows
from phr.store.house import House, bury
from phr.store.models import (
    ClaimedBrowser,
    Grant,
    GrantState,
    Handle,
    HandleKind,
    HandleState,
    Patient,
    Recipient,
    Route,
)
from phr.store.models import record as record_table
from phr.store.records import Clause
from phr.store.vault import Vault

__all__ = [
    "Interaction",
    "Owned",
    "Presented",
    "Released",
    "Standing",
    "Tally",
    "Terms",
    "decided",
    "draft_terms",
    "end",
    "expire",
    "look",
    "narrow",
    "origins",
    "owner_export",
    "person_of",
    "place_names",
    "preview",
    "private_records",
    "reconcile",
    "release",
    "release_to",
    "resume",
    "stands",
    "suspend",
    "tally",
]

VISIT = timedelta(minutes=30)  # pages less than this apart are one visit, and one use
APPLIANCE = {"kind": "appliance"}


@dataclass(frozen=True, slots=True)
class Presented:
    """What a recipient shows: the handle's id, and for a link the cookie of its browser."""

    handle_id: str
    cookie: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Interaction:
    """What a token is used for: the SMART letters it needs (c r u d s) for a type.

    `type` None: any, for a request that names none that is known.
    """

    letters: str
    type: str | None

    @property
    def action(self) -> Action:
        """What the grant must allow for it."""
        return Action.CONTRIBUTE if set(self.letters) & set("cud") else Action.DOWNLOAD


@dataclass(frozen=True, slots=True)
class Standing:
    """What a live token stands for: its scopes, the app it was issued to, grant and recipient."""

    scopes: str
    client_id: str | None  # None: not issued to a registered app
    grant: Grant = field(repr=False)  # without its provision and recipient
    recipient: str  # the name


# ------------------------------------------------------------------ letting out


def release(
    vault: Vault,
    presented: Presented,
    action: Action,
    event: str,
    *,
    now: datetime,
    actor: Mapping[str, Any] | None = None,
    measure: bool = False,
    **detail: Any,
) -> Released:
    """Decide whether what was presented opens its grant for `action`, and write that down.

    `event` and `detail` become the audit line, by the recipient unless `actor` says otherwise;
    `measure` adds how many records it covers. Raises NotFound (nothing known is presented), Ended
    (it was live once) or Denied.
    """
    with vault.write(Priority.URGENT) as session:
        handle, browser = _known(session, presented)
        grant = grants.get(session, handle.grant_id)
        objection = _objection(handle, grant, browser, now)
        if objection is not None:
            raise objection
        provision = policy.from_json(grant.provision)
        if action not in provision.actions:
            raise Denied(f"{action} is not part of the grant")
        _count_use(grant, browser, now)
        released = Released(
            vault,
            _terms(session, vault, grant, browser),
            provision,
            policy.compiled(provision),
            endings.turn(grant.id),
        )
        if measure:
            where = released.compiled.counted
            detail["records"] = records.count(session, Selection(), where)
        who = actor or actor_of(session, grant)
        audit.append(session, vault, event, who, grant_id=grant.id, **detail)
    return released


def release_to(
    vault: Vault,
    grant_id: str,
    bearer: Bearer,
    wanted: Interaction,
    event: str,
    *,
    now: datetime,
    **detail: str,
) -> Released:
    """Decide whether a bearer token opens its grant for an interaction, and write that down.

    Looked up at every request. Requests for the same thing within a minute are one line of the
    log (`bursts`), and the first of them waits until that is committed; a refused one writes
    nothing. `detail` is never in the words of who asks. Raises TokenRefused (unknown, expired,
    ended, of an app that is blocked or gone), ScopeTooSmall or Denied.
    """
    _refuse_over(grant_id)
    token = (vault.id, ids.fingerprint(bearer.secret))
    courtesy.stand_back()
    with vault.read() as session:
        released = _let_in(session, vault, grant_id, bearer, wanted, now=now)
    line = bursts.due(token, (event, tuple(sorted(detail.items()))), now=now)
    if line is None:
        return released
    with vault.write(Priority.URGENT) as session:
        commits = vault.database.commits
        released = _let_in(session, vault, grant_id, bearer, wanted, now=now)
        who = actor_of(session, grants.get(session, grant_id))
        audit.append(session, vault, line[0], who, grant_id=grant_id, **dict(line[1]))
        session.info["after"] = [
            partial(bursts.written, token, line, now=now),
            partial(outlive, vault, commits),
        ]
    return released


def stands(
    session: Session, vault: Vault, grant_id: str, bearer: Bearer, *, now: datetime
) -> Standing:
    """Return what a bearer token stands for, for a door that asks for no record.

    Raises TokenRefused (unknown, expired, ended, of an app that is blocked or gone) or Denied.
    """
    _refuse_over(grant_id)
    held = _standing(session, vault, grant_id, bearer, now)
    return Standing(held.handle.scopes or "", held.client_id, held.grant, held.recipient)


def _refuse_over(grant_id: str) -> None:
    """Refuse what was stopped in this process, without waiting in turn for anything."""
    if endings.over(grant_id):
        raise TokenRefused


def _standing(
    session: Session, vault: Vault, grant_id: str, bearer: Bearer, now: datetime
) -> "_Held":
    held = _held(session, grant_id, bearer)
    if held is None or held.handle.expires_at is None or held.handle.expires_at <= now:
        raise TokenRefused
    if held.client_id is not None and clients.find(vault.house, held.client_id) is None:
        raise TokenRefused  # a vault that was sealed meanwhile has not heard of it
    objection = _objection(held.handle, held.grant, None, now)
    if objection is not None:
        raise TokenRefused if isinstance(objection, Ended) else objection
    return held


def _let_in(
    session: Session,
    vault: Vault,
    grant_id: str,
    bearer: Bearer,
    wanted: Interaction,
    *,
    now: datetime,
) -> Released:
    held = _standing(session, vault, grant_id, bearer, now)
    granted = held.handle.scopes or ""
    provision, compiled = _reached(held.provision, granted, wanted.letters)
    if wanted.action not in provision.actions:
        raise Denied(f"{wanted.action} is not part of the grant")
    types = scopes.types_within(granted, wanted.letters)
    if not types or (wanted.type is not None and wanted.type not in types):
        raise ScopeTooSmall
    terms = _terms_of(held.grant, held.recipient, provision.actions)
    return Released(
        vault, terms, provision, compiled, endings.turn(grant_id), granted, wanted.letters
    )


@dataclass(frozen=True, slots=True)
class _Held:
    """What is known of a token: its handle, the grant, the recipient's name, and the app."""

    handle: Handle
    grant: Grant  # without its provision
    provision: str  # as kept
    recipient: str
    client_id: str | None  # None: not issued to a registered app


_HELD = (
    "SELECT handle.id, handle.state, handle.expires_at, handle.scopes, given.state,"
    " given.starts_at, given.ends_at, given.created_at, given.role, given.purpose, given.reason,"
    " given.shared_by, given.provision, recipient.name, allowed.client_id"
    ' FROM handle JOIN "grant" AS given ON given.id = handle.grant_id'
    " JOIN recipient ON recipient.id = given.recipient_id"
    " LEFT JOIN authorization AS allowed ON allowed.grant_id = handle.grant_id"
    " WHERE handle.grant_id = ? AND handle.kind = ? AND handle.secret_hash = ?"
)


def _held(session: Session, grant_id: str, bearer: Bearer) -> _Held | None:
    """Look a token up: one plain query, for this is asked at every request of every app."""
    secret = ids.fingerprint(bearer.secret)
    found = rows(session, _HELD, (grant_id, HandleKind.TOKEN.value, secret))
    if not found:
        return None
    id_, state, expires, said, standing, starts, ends, created, *rest = found[0]
    *words, provision, name, client_id = rest
    handle = Handle(
        id=id_,
        kind=HandleKind.TOKEN,
        state=state,
        expires_at=None if expires is None else clock.from_ms(expires),
        scopes=said,
    )
    grant = Grant(
        id=grant_id,
        state=standing,
        starts_at=clock.from_ms(starts),
        ends_at=clock.from_ms(ends),
        created_at=clock.from_ms(created),
        **dict(zip(("role", "purpose", "reason", "shared_by"), words, strict=True)),
    )
    return _Held(handle, grant, provision, name, client_id)


@lru_cache(maxsize=128)
def _reached(kept: str, granted: str, letters: str) -> tuple[Provision, Compiled]:
    """Return a kept provision, and it compiled within the scopes of a token."""
    provision = policy.from_json(json.loads(kept))
    return provision, scopes.narrowed(policy.compiled(provision), granted, letters)


def look(vault: Vault, presented: Presented, *, now: datetime) -> Terms:
    """Return the terms that what was presented stands under, reading no record, counting nothing.

    For the form that waits for a code, and for a page that listens for the end.
    """
    with vault.read() as session:
        handle, browser = _known(session, presented)
        grant = grants.get(session, handle.grant_id)
        objection = _objection(handle, grant, browser, now)
        if objection is not None:
            raise objection
        return _terms(session, vault, grant, browser)


def preview(
    session: Session, vault: Vault, provision: Provision, *selections: Selection
) -> list[Record]:
    """Return what a recipient would see under this provision; for the owner's eyes only."""
    return closure.closed(chosen(session, vault, selections, policy.compiled(provision)))


def decided(session: Session, vault: Vault, provision: Provision) -> tuple[Decision, ...]:
    """Return what was said about the records that `preview` shows; for the owner's eyes only."""
    return decided_within(session, vault, policy.compiled(provision))


@dataclass(frozen=True, slots=True)
class Tally:
    """How many records a provision covers now, and why the others stay out.

    `left_out`: only for their label; `single`: taken out one by one; `rest`: not of the kinds,
    years and places chosen, or private. Those four are all there are. `labelled` counts the whole
    vault by the keys of SENSITIVE. Supporting records do not count.
    """

    shared: int
    left_out: int
    single: int
    rest: int
    labelled: Mapping[str, int]


def tally(session: Session, provision: Provision) -> Tally:
    """Count what a provision covers; for the owner's eyes only."""

    def size(one: Provision) -> int:
        return records.count(session, Selection(), policy.compiled(one).counted)

    every = reduce(or_, (label for _, label in SENSITIVE.values()))
    shared, named = size(provision), size(replace(provision, labels=every))
    whole = size(replace(provision, labels=every, excluded=frozenset()))
    total = records.count(session, Selection(), policy.COUNTABLE)
    sensitive = session.execute(
        select(record_table.c.labels, func.count())
        .where(record_table.c.labels != 0)
        .group_by(record_table.c.labels)
    ).all()
    labelled = {
        key: sum(number for bits, number in sensitive if bits & label)
        for key, (_, label) in SENSITIVE.items()
    }
    return Tally(shared, named - shared, whole - named, total - whole, labelled)


def private_records(session: Session, vault: Vault, *, limit: int) -> list[Record]:
    """Return the newest records that the patient keeps private; for the owner's eyes only."""
    private = Clause("(record.labels & ?) <> 0", (int(Label.PRIVATE),))
    return records.select(session, vault, Selection(limit=limit), where=private)


def draft_terms(vault: Vault, provision: Provision, *, shared_by: str, now: datetime) -> Terms:
    """Return terms for a preview of what nobody has approved yet."""
    return Terms(
        grant_id="",
        patient=person_of(vault),
        recipient="",
        role="",
        purpose="TREAT",
        reason=None,
        shared_by=shared_by,
        created_at=now,
        ends_at=now,
        actions=provision.actions,
    )


def owner_export(vault: Vault, actor: Mapping[str, Any], *, form: str) -> Owned:
    """Let the owner take a whole copy; the audit line is committed before anything is read."""
    with vault.write(Priority.URGENT) as session:
        audit.append(session, vault, "export.done", actor, form=form)
    return Owned(vault)


def _known(session: Session, presented: Presented) -> tuple[Handle, ClaimedBrowser | None]:
    handle = session.get(Handle, presented.handle_id)
    if handle is None:
        raise NotFound
    if handle.kind == HandleKind.TOKEN:  # opens by its secret only: `release_to`
        raise NotFound
    if handle.kind not in (HandleKind.LINK, HandleKind.CARD):
        if presented.cookie is not None:
            raise NotFound
        return handle, None
    return handle, handles.browser_of(session, handle.id, presented.cookie or "")


def _objection(
    handle: Handle, grant: Grant, browser: ClaimedBrowser | None, now: datetime
) -> Ended | Denied | None:
    if grant.state in (GrantState.ENDED, GrantState.DRAFT) or handle.state == HandleState.ENDED:
        return Ended()
    if endings.stopped(grant.id) and grant.state != GrantState.SUSPENDED:
        return Ended()
    if not grant.starts_at <= now < _end_of(grant, browser):
        return Ended()
    if grant.state == GrantState.SUSPENDED:
        return Denied("suspended", "The patient has paused this. Please ask them.")
    counted = handle.kind != HandleKind.TOKEN  # a token's use was counted when it was issued
    if counted and grant.uses_left == 0 and not _same_visit(browser, now):
        return Ended("This was opened as often as the patient allowed.")
    return None


def _end_of(grant: Grant, browser: ClaimedBrowser | None) -> datetime:
    """Return until when this browser may read: an opened card is for an hour, a grant for days."""
    own = None if browser is None else browser.ends_at
    return grant.ends_at if own is None else min(own, grant.ends_at)


def _same_visit(browser: ClaimedBrowser | None, now: datetime) -> bool:
    return browser is not None and browser.visit_at is not None and now - browser.visit_at < VISIT


def _count_use(grant: Grant, browser: ClaimedBrowser | None, now: datetime) -> None:
    if grant.uses_left is not None and not _same_visit(browser, now):
        grant.uses_left -= 1
    if browser is not None:
        browser.visit_at = now


def actor_of(session: Session, grant: Grant) -> dict[str, Any]:
    """Return the recipient of a grant in the form the audit log keeps."""
    recipient = session.get(Recipient, grant.recipient_id)
    name = "" if recipient is None else recipient.name
    return {"kind": "recipient", "id": grant.recipient_id, "name": name}


def identity(session: Session, vault: Vault, grant_id: str) -> list[Record]:
    """Return the Patient records that a grant covers, for the name on a page of its holder."""
    where = policy.compiled(policy.from_json(grants.get(session, grant_id).provision)).where
    return records.select(session, vault, Selection(types=policy.IDENTITY), where=where)


def person_of(vault: Vault) -> str:
    """Return the name that the house gives to the person of a vault."""
    with vault.house.read() as session:
        found = session.get(Patient, vault.id)
        return "" if found is None else found.name


def _terms(session: Session, vault: Vault, grant: Grant, browser: ClaimedBrowser | None) -> Terms:
    recipient = actor_of(session, grant)["name"]
    terms = _terms_of(grant, recipient, policy.from_json(grant.provision).actions)
    return replace(terms, patient=person_of(vault), ends_at=_end_of(grant, browser))


def _terms_of(grant: Grant, recipient: str, actions: frozenset[Action]) -> Terms:
    return Terms(
        grant_id=grant.id,
        patient="",
        recipient=recipient,
        role=grant.role,
        purpose=grant.purpose,
        reason=grant.reason,
        shared_by=grant.shared_by,
        created_at=grant.created_at,
        ends_at=grant.ends_at,
        actions=actions,
    )


# ------------------------------------------------------------------ ending


def end(
    vault: Vault,
    grant_id: str,
    because: str,
    actor: Mapping[str, Any],
    *,
    now: datetime,
) -> bool:
    """End a grant at once, everywhere; False if it was over before. Never asks for a password.

    The vault comes first: it is what every release reads. Then the bell for open pages and running
    downloads, then the memory in house.db that outlives a restored backup (`reconcile` mends a
    crash in between). A message by mail at its very last step is waited for, five seconds at most.
    """
    with courtesy.stopping():
        with vault.write(Priority.URGENT) as session:
            grants.get(session, grant_id)
            changed = grants.end(session, vault, grant_id, because, actor=actor, now=now)
            session.info["after"] = [partial(endings.announce_end, grant_id)]
        _remember(vault.house, [grant_id], now)
    orders.at_rest(grant_id)
    return changed


def suspend(vault: Vault, grant_id: str, actor: Mapping[str, Any]) -> None:
    """Pause a grant; open pages go blank as at an ending."""
    with courtesy.stopping(), vault.write(Priority.URGENT) as session:
        grants.suspend(session, vault, grants.get(session, grant_id), actor)
        session.info["after"] = [partial(endings.announce, grant_id)]
    orders.at_rest(grant_id)


def narrow(vault: Vault, grant_id: str, provision: Provision, actor: Mapping[str, Any]) -> None:
    """Let a grant cover less from now on: open pages ask again, running downloads are cut."""
    with courtesy.stopping(), vault.write(Priority.URGENT) as session:
        grants.narrow(session, vault, grants.get(session, grant_id), provision, actor)
        endings.narrowed(grant_id)
        session.info["after"] = [partial(endings.wake, grant_id)]
    orders.at_rest(grant_id)


def resume(
    vault: Vault,
    grant_id: str,
    *,
    step_up: grants.StepUp,
    shown: str,
    actor: Mapping[str, Any],
    now: datetime,
) -> None:
    """Start a paused grant again; needs a fresh factor."""
    with vault.write(Priority.URGENT) as session:
        grant = grants.get(session, grant_id)
        grants.resume(session, vault, grant, step_up=step_up, shown=shown, actor=actor, now=now)
    endings.forget(grant_id)


def expire(vault: Vault, *, now: datetime) -> int:
    """End the grants whose time has run out; return how many. For the housekeeping tick."""
    with vault.read() as session:
        due = grants.due(session, now=now)
    for grant_id in due:
        end(vault, grant_id, "time", APPLIANCE, now=now)
    return len(due)


def reconcile(vault: Vault, *, now: datetime) -> None:
    """Make vault and house agree on what has ended, whichever of them forgot. At each opening."""
    with vault.read() as session:
        over = set(session.scalars(select(Grant.id).where(Grant.state == GrantState.ENDED)))
        standing = set(session.scalars(select(Grant.id).where(Grant.state != GrantState.ENDED)))
    remembered = vault.house.buried("grant")
    for grant_id in standing & remembered:
        end(vault, grant_id, "restored", APPLIANCE, now=now)
    _remember(vault.house, sorted(over - remembered), now)


def _remember(house: House, grant_ids: Sequence[str], now: datetime) -> None:
    if not grant_ids:
        return
    with house.write(Priority.URGENT) as session:
        for grant_id in grant_ids:
            bury(session, "grant", grant_id)
        led = select(Route).where(Route.grant_id.in_(grant_ids), Route.ended_at.is_(None))
        routes = [*session.scalars(led)]
        for route in routes:
            route.ended_at = now
        endings.shut([route.id for route in routes])  # the vault has said so already

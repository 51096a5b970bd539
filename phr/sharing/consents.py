"""The life of a Consent that an app proposes: waiting, for whom, approved, refused, over.

What a Consent says is read by `consent`; who a server is, by `servers`; what is sent to a mailbox,
`pushes`. A proposal is a draft grant: nothing leaves before the patient approves it, with a fresh
password, at the home address.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from phr import ids
from phr.errors import Conflict, InvalidInput, NotFound
from phr.fhir import document, references
from phr.fhir.labels import Label
from phr.sharing import asking, clients, consent, gate, grants, handles, orders, recipients
from phr.sharing import provision as policy
from phr.sharing.asking import Wishes
from phr.sharing.clients import Registration
from phr.sharing.consent import Proposal
from phr.sharing.gate import Standing, Terms
from phr.sharing.grants import StepUp
from phr.sharing.servers import Server
from phr.store import audit, limits
from phr.store.house import House
from phr.store.models import (
    Authorization,
    ConsentAsked,
    Grant,
    GrantState,
    HandleKind,
    PushState,
    Recipient,
    RecipientKind,
    Route,
)
from phr.store.vault import Vault

ROLE: Final = "app"
BY_MAIL: Final = "chosen"  # once approved: what the patient left of it
BY_HAND: Final = ""  # in the place of an app: the patient brought it
NOBODY: Final = "A server that is not named yet"
WAITING_OF_ONE: Final = 5  # proposals of one app that nobody has answered
MOST_WAITING: Final = 100  # of all apps: so many that an app learns nothing of the others
MOST_REQUESTS: Final = 20  # recipients named for one Consent, ever
MOST_BYTES: Final = 16 << 10  # of a Consent, without its narrative
A_DAY: Final = limits.Limit(free=20, first=60, most=3600)  # proposals of one app
REFUSED: Final = "refused"
FULL: Final = "Too many proposals wait for the patient's answer. Nothing was kept."
STATUS: Final = {  # R4 consent-state-codes
    GrantState.DRAFT: "proposed",
    GrantState.ACTIVE: "active",
    GrantState.SUSPENDED: "inactive",
    GrantState.ENDED: "inactive",
}


CAPABILITY: Final[Mapping[str, Any]] = {  # what the CapabilityStatement says of it
    "type": "Consent",
    "interaction": [{"code": "read"}, {"code": "search-type"}, {"code": "create"}],
    "versioning": "no-version",
    "conditionalCreate": False,
    "documentation": (
        f"With the scope {asking.MANAGE} or {asking.PUSH}: what the app itself proposed. A"
        " proposal waits for its patient. With the first, $authorize (client, publicKey or jwt, and"
        " duration) names a server for it, $authorizations tells how each stands,"
        " $revokeAuthorization ends one (app-id or authorization). With the second, $pushStart"
        " (address, once, duration) asks that its records be sent to a Direct address, $listPush"
        f" tells how that stands, $pushStop (address or push) ends it. With {asking.CONNECT},"
        " $connect (url, consent) asks this record to fetch from another server under its Consent."
    ),
}


class Answer(StrEnum):
    """How the request that one server may fetch stands, as its app is told."""

    WAITING = "awaiting-approval"
    ACTIVE = "active"
    PAUSED = "suspended"
    REFUSED = "refused"
    ENDED = "ended"


OVER: Final = frozenset({Answer.REFUSED, Answer.ENDED})


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A Direct address that records are asked to be sent to, and how an app asked for it."""

    address: str
    once: bool
    seconds: int | None  # how long, as the app said it; None: as long as the Consent

    jwks: ClassVar[None] = None

    @property
    def name(self) -> str:
        """What a person tells it by."""
        return self.address

    @property
    def wish(self) -> Mapping[str, Any]:
        """What is kept of it beside the address."""
        return {"once": self.once, "seconds": self.seconds}


@dataclass(frozen=True, slots=True)
class Asked:
    """One proposal as it stands: its row, its grant, and what it asks."""

    row: ConsentAsked
    grant: Grant
    proposal: Proposal

    @property
    def answer(self) -> Answer:
        """How it stands, without a reason."""
        if self.grant.state == GrantState.DRAFT:
            return Answer.WAITING
        if self.grant.state == GrantState.ENDED:
            refused = self.grant.ended_because == REFUSED
            return Answer.REFUSED if refused else Answer.ENDED
        return Answer.ACTIVE if self.grant.state == GrantState.ACTIVE else Answer.PAUSED

    @property
    def server(self) -> Server | None:
        """The server that it is for; None while none is named, or where it is for a mailbox."""
        if self.row.address is None or self.row.push is not None:
            return None
        return Server(self.row.address, self.row.jwks)

    @property
    def mailbox(self) -> Mailbox | None:
        """The Direct address that it is for; None for every other."""
        if self.row.address is None or self.row.push is None:
            return None
        return Mailbox(self.row.address, **self.row.push)


# ------------------------------------------------------------------ an app proposes


def propose(vault: Vault, by: Standing, body: bytes, *, now: datetime) -> str:
    """Keep a Consent as a draft grant, for the patient to answer; return its id.

    Its narrative is not kept. Raises consent.NotExpressible (nothing is kept), Conflict where too
    many wait, TooManyTries where the app proposed too many today.
    """
    kept, proposal = _understood(vault, body, now)
    limits.take(vault.house, [(f"proposals:{vault.id}:{by.client_id}", A_DAY)])
    asker = _Asker(
        by.client_id or "", {"kind": "recipient", "id": by.grant.id, "name": by.recipient}
    )
    consent_id = ids.new_id()
    with vault.write() as session:
        _draft(
            session, vault, asker, kept, proposal,
            consent_id=consent_id, grant_id=consent_id, now=now,
        )  # fmt: skip
    handles.bearer_route(vault.house, vault.id, consent_id)
    return consent_id


def bring(
    vault: Vault, body: bytes, server: Server, actor: Mapping[str, Any], *, now: datetime
) -> str:
    """Keep a Consent that the patient brought, for the server it names; return the draft's id.

    It waits for an answer like any other, line by line. Raises consent.NotExpressible (nothing is
    kept), InvalidInput where it names another server, Conflict where too many wait.
    """
    kept, proposal = _understood(vault, body, now)
    if proposal.server and proposal.server.rstrip("/") != server.address:
        raise InvalidInput("The Consent names another server than this one.")
    consent_id = ids.new_id()
    with vault.write() as session:
        row = _draft(
            session, vault, _Asker(BY_HAND, actor), kept, proposal,
            consent_id=consent_id, grant_id=consent_id, now=now,
        )  # fmt: skip
        _name(session, row, server)
    handles.bearer_route(vault.house, vault.id, consent_id)
    return consent_id


@dataclass(frozen=True, slots=True)
class _Asker:
    """Who proposes: the app's client id (BY_HAND: nobody's), and who the log says it was."""

    client_id: str
    actor: Mapping[str, Any]


def _understood(vault: Vault, body: bytes, now: datetime) -> tuple[str, Proposal]:
    """Return a Consent as it is kept, without its narrative, and what it asks."""
    found = document.loads(body)
    proposal = consent.read(found, patient_id=references.patient_id(vault.id_key), now=now)
    kept = document.dumps({name: value for name, value in found.items() if name != "text"})
    if len(kept) > MOST_BYTES:
        raise consent.NotExpressible("This Consent is larger than is read here.")
    return kept.decode(), proposal


def _name(session: Session, row: ConsentAsked, whom: Server | Mailbox) -> None:
    row.address, row.jwks = whom.address, None if whom.jwks is None else dict(whom.jwks)
    row.push = dict(whom.wish) if isinstance(whom, Mailbox) else None
    grant = session.get_one(Grant, row.grant_id)
    session.get_one(Recipient, grant.recipient_id).name = whom.name


def _draft(
    session: Session,
    vault: Vault,
    by: _Asker,
    body: str,
    proposal: Proposal,
    *,
    consent_id: str,
    grant_id: str,
    now: datetime,
    to: str | None = None,
) -> ConsentAsked:
    waiting = select(func.count()).select_from(ConsentAsked).join(Grant).where(
        Grant.state == GrantState.DRAFT
    )  # fmt: skip
    own = session.scalar(waiting.where(ConsentAsked.client_id == by.client_id)) or 0
    if own >= WAITING_OF_ONE or (session.scalar(waiting) or 0) >= MOST_WAITING:
        raise Conflict(FULL)
    longest = now + grants.LONGEST_OF[ROLE]
    recipient = Recipient(
        id=ids.new_id(),
        name=proposal.named or NOBODY,
        kind=RecipientKind.APP,
        created_at=now,
    )
    session.add(recipient)
    session.flush()
    grants.create(
        session,
        grant_id=grant_id,
        recipient_id=recipient.id,
        role=ROLE,
        provision=proposal.provision,
        reason="",
        created_by=by.client_id,
        shared_by="",
        ends_at=min(proposal.ends_at or longest, longest),
        uses=None,
        now=now,
        purpose=proposal.purpose,
    )
    row = ConsentAsked(
        grant_id=grant_id,
        consent_id=consent_id,
        client_id=by.client_id,
        body=body,
        created_at=now,
    )
    session.add(row)
    _log(session, vault, by.actor, grant_id, to)
    return row


def _log(
    session: Session, vault: Vault, actor: Mapping[str, Any], grant_id: str, to: str | None
) -> None:
    """Write down that something was proposed: to share, or (`to`) to send to an address."""
    if to is None:
        audit.append(session, vault, "consent.proposed", actor, grant_id=grant_id)
    else:
        audit.append(session, vault, "push.proposed", actor, grant_id=grant_id, to=to)


# ------------------------------------------------------------------ looking them up


def of_app(session: Session, vault: Vault, client_id: str | None) -> list[Asked]:
    """Return the Consents that an app proposed, the newest first: one for each, not ended."""
    wanted = (
        select(ConsentAsked, Grant)
        .join(Grant, Grant.id == ConsentAsked.grant_id)
        .where(ConsentAsked.client_id == client_id, Grant.state != GrantState.ENDED)
        .order_by(Grant.created_at.desc(), Grant.id)
    )
    first: dict[str, Asked] = {}
    for row, grant in session.execute(wanted):
        one = Asked(row, grant, _read(vault, row, grant.created_at))
        if row.consent_id not in first or row.grant_id == row.consent_id:
            first[row.consent_id] = one
    return list(first.values())


def of_consent(
    session: Session, vault: Vault, client_id: str | None, consent_id: str
) -> list[Asked]:
    """Return every request under a Consent of this app, the oldest first. Raises NotFound.

    Another app's is as unknown as one that never was.
    """
    wanted = (
        select(ConsentAsked, Grant)
        .join(Grant, Grant.id == ConsentAsked.grant_id)
        .where(ConsentAsked.consent_id == consent_id, ConsentAsked.client_id == client_id)
        .order_by(Grant.created_at, Grant.id)
    )
    found = [
        Asked(row, grant, _read(vault, row, grant.created_at))
        for row, grant in session.execute(wanted)
    ]
    if not found:
        raise NotFound
    return found


def foremost(known: Sequence[Asked]) -> Asked:
    """Return which request under one Consent tells how it stands: one that gives, if any."""
    return next((each for each in known if each.answer is Answer.ACTIVE), known[0])


def one(session: Session, vault: Vault, grant_id: str) -> Asked:
    """Return one proposal, for the patient. Raises NotFound."""
    row, grant = session.get(ConsentAsked, grant_id), session.get(Grant, grant_id)
    if row is None or grant is None:
        raise NotFound
    return Asked(row, grant, _read(vault, row, grant.created_at))


def waiting(session: Session, vault: Vault) -> list[Asked]:
    """Return what waits for the patient's answer, the newest first."""
    return _in_state(session, vault, GrantState.DRAFT)


def number_waiting(session: Session) -> int:
    """Return how many wait for the patient's answer."""
    waits = select(func.count()).select_from(ConsentAsked).join(Grant)
    return int(session.scalar(waits.where(Grant.state == GrantState.DRAFT)) or 0)


def standing(session: Session, vault: Vault) -> list[Asked]:
    """Return the servers that may fetch, the newest first, for the patient."""
    return [each for each in _in_state(session, vault, GrantState.ACTIVE) if each.server]


def _in_state(session: Session, vault: Vault, state: GrantState) -> list[Asked]:
    wanted = (
        select(ConsentAsked, Grant)
        .join(Grant, Grant.id == ConsentAsked.grant_id)
        .where(Grant.state == state)
        .order_by(Grant.created_at.desc(), Grant.id)
    )
    return [
        Asked(row, grant, _read(vault, row, grant.created_at))
        for row, grant in session.execute(wanted)
    ]


def _read(vault: Vault, row: ConsentAsked, then: datetime) -> Proposal:
    """Read a kept Consent again, as of the day when it came."""
    found = document.loads(row.body.encode())
    return consent.read(found, patient_id=references.patient_id(vault.id_key), now=then)


def written(session: Session, vault: Vault, grant: Grant) -> Mapping[str, Any]:
    """Return any grant as R4 Consent, as it stands: what the patient took away is gone.

    A proposal goes by the id that its app knows.
    """
    row = session.get(ConsentAsked, grant.id)
    provision = policy.from_json(grant.provision)
    terms = Terms(
        grant_id=grant.id if row is None else row.consent_id,
        patient="",
        recipient=str(gate.actor_of(session, grant)["name"]),
        role=grant.role,
        purpose=grant.purpose,
        reason=None,
        shared_by=grant.shared_by,
        created_at=grant.created_at,
        ends_at=grant.ends_at,
        actions=provision.actions,
    )
    status = STATUS[GrantState(grant.state)]
    if grant.ended_because == REFUSED:
        status = "rejected"
    patient_id = references.patient_id(vault.id_key)
    return consent.resource(terms, provision, patient_id, status=status)


# ------------------------------------------------------------------ for a server, or a mailbox


def authorize(
    vault: Vault,
    by: Standing,
    consent_id: str,
    whom: Server | Mailbox,
    ends_at: datetime | None,
    *,
    now: datetime,
) -> Asked:
    """Note for whom a Consent of this app shall be: a server, or mail; the patient answers it.

    `ends_at` None: when the Consent ends. Raises NotFound, InvalidInput where it would last longer
    than the Consent, Conflict where this one has it already or it has ended. The same mailbox
    asked for in the same way is the request that stands.
    """
    with vault.write() as session:
        known = of_consent(session, vault, by.client_id, consent_id)
        for each in known:
            if each.mailbox == whom and not _is_over(session, each):
                return each
        _must_fit(session, known, whom, ends_at)
        first, actor = known[0], {"kind": "recipient", "id": by.grant.id, "name": by.recipient}
        if first.row.address is None and first.answer is Answer.WAITING:
            row = first.row
            if isinstance(whom, Mailbox):
                _log(session, vault, actor, row.grant_id, whom.address)
        elif all(each.answer in OVER for each in known):
            raise Conflict("This Consent was refused, or it has ended. Propose it anew.")
        elif len(known) >= MOST_REQUESTS:
            raise Conflict("Too many were named for this Consent. Propose it anew.")
        else:
            row = _draft(
                session,
                vault,
                _Asker(by.client_id or "", actor),
                first.row.body,
                first.proposal,
                consent_id=consent_id,
                grant_id=ids.new_id(),
                now=now,
                to=whom.address if isinstance(whom, Mailbox) else None,
            )
        grant = session.get_one(Grant, row.grant_id)
        limit = min((each.grant.ends_at for each in known), default=grant.ends_at)
        grant.ends_at = min(ends_at or limit, limit)
        _name(session, row, whom)
        session.flush()
        return one(session, vault, row.grant_id)


def _is_over(session: Session, asked: Asked) -> bool:
    """Say whether a request may be made anew: it ended, or the patient stopped what it sends."""
    job = orders.get(session, asked.grant.id)
    return asked.answer in OVER or (job is not None and job.state == PushState.STOPPED)


def _is_same(asked: Asked, whom: Server | Mailbox) -> bool:
    named = asked.row.address or ""
    if asked.mailbox and isinstance(whom, Mailbox):
        return named.lower() == whom.address.lower()
    return named == whom.address


def _must_fit(
    session: Session, known: list[Asked], whom: Server | Mailbox, ends_at: datetime | None
) -> None:
    first = known[0]
    if first.proposal.server and first.proposal.server.rstrip("/") != whom.address:
        raise InvalidInput("The Consent names another server than this one.")
    if ends_at is not None and ends_at > first.grant.ends_at:
        raise InvalidInput("That is longer than the Consent lasts.")
    for each in known:
        if _is_same(each, whom) and not _is_over(session, each):
            what = "This server has been" if each.server else "This address has been"
            raise Conflict(f"{what} named for this Consent already.")


def revoke(vault: Vault, by: Standing, consent_id: str, named: str, *, now: datetime) -> None:
    """End what one server has under a Consent; `named` is its address or the request's id.

    What nobody answered yet is forgotten altogether. Repeating it changes nothing. Raises NotFound
    where no such server is named.
    """
    with vault.read() as session:
        known = of_consent(session, vault, by.client_id, consent_id)
    found = [
        each for each in known if not each.mailbox and named in {each.row.address, each.grant.id}
    ]
    if not found:
        raise NotFound
    for each in found:
        end(vault, by, each, now=now)


def end(vault: Vault, by: Standing, asked: Asked, *, now: datetime) -> None:
    """End what one recipient has, or forget it where nobody answered yet."""
    actor = {"kind": "recipient", "id": by.grant.id, "name": by.recipient}
    if asked.answer is not Answer.WAITING or not _withdraw(vault, asked.grant.id, actor):
        gate.end(vault, asked.grant.id, "app", actor, now=now)
    consent_id = asked.row.consent_id
    with vault.read() as session:
        of_it = select(ConsentAsked.grant_id).where(ConsentAsked.consent_id == consent_id)
        if session.scalars(of_it.limit(1)).first() is not None:
            return
    with vault.house.write() as house:
        house.execute(delete(Route).where(Route.grant_id == consent_id))


def _withdraw(vault: Vault, grant_id: str, actor: Mapping[str, Any]) -> bool:
    """Forget a draft with its recipient; False where it was answered meanwhile."""
    with vault.write() as session:
        grant = session.get(Grant, grant_id)
        if grant is None or grant.state != GrantState.DRAFT:
            return False
        recipient_id = grant.recipient_id
        session.execute(delete(ConsentAsked).where(ConsentAsked.grant_id == grant_id))
        session.execute(delete(Grant).where(Grant.id == grant_id))
        session.execute(delete(Recipient).where(Recipient.id == recipient_id))
        audit.append(session, vault, "consent.withdrawn", actor, grant_id=grant_id)
        return True


# ------------------------------------------------------------------ the patient answers


@dataclass(frozen=True, slots=True)
class Kept:
    """What a patient leaves of a proposal: lines, labels, how far back, until when."""

    lines: Collection[str]
    labels: Label
    since: datetime | None
    ends_at: datetime


def approve(
    vault: Vault,
    grant_id: str,
    kept: Kept,
    *,
    step_up: StepUp,
    shown: str,
    actor: Mapping[str, Any],
    now: datetime,
) -> None:
    """Let a server fetch what is left of a proposal, or have it sent to a mailbox.

    A server becomes a known one of this house, so that it can be blocked as any app. Raises
    StepUpNeeded, InvalidInput, Conflict (also where something is sent to that address already).
    """
    with vault.read() as session:
        asked = one(session, vault, grant_id)
    if asked.answer is not Answer.WAITING or asked.row.address is None:
        raise Conflict("This was answered already, or nobody is named yet whom it is for.")
    provision = asked.proposal.kept(kept.lines, kept.labels, kept.since)
    if not provision.rules:
        raise InvalidInput("Leave at least one line, or refuse.")
    if kept.ends_at > asked.grant.ends_at:
        raise InvalidInput("The app did not ask for that long.")
    house, by, server, mailbox = vault.house, step_up.account_id, asked.server, asked.mailbox
    client_id = ""
    if server is not None:
        says = Registration(server.name, (), server.jwks, server.jwks_uri)
        client_id = clients.known_server(house, says, by=by).id
    with vault.write() as session:
        row, grant = session.get_one(ConsentAsked, grant_id), grants.get(session, grant_id)
        grant.provision = policy.to_json(provision)
        grant.ends_at, grant.starts_at = kept.ends_at, now
        grant.created_by, grant.shared_by = by, str(actor["name"])
        if server is not None:
            grant.recipient_id = recipients.app(session, client_id, server.name, now=now).id
        elif mailbox is not None:
            _must_be_alone(session, mailbox)
            kind = RecipientKind.DIRECT
            grant.recipient_id = recipients.named(session, mailbox.name, kind, now=now).id
            grant.role = BY_MAIL
        grants.approve(session, vault, grant, step_up=step_up, shown=shown, actor=actor, now=now)
        if server is not None:
            row.server_id = client_id
            session.add(_may_fetch(grant, client_id, asked, kept))
        elif mailbox is not None:
            handles.make_inner(session, grant.id, HandleKind.PUSH, now=now)
            orders.make(
                session,
                vault,
                grant,
                channel=RecipientKind.DIRECT,
                address=mailbox.address,
                standing=not mailbox.once,
                actor=actor,
                now=now,
            )
    handles.bearer_route(house, vault.id, asked.row.consent_id)  # where a crash had left it out


def _must_be_alone(session: Session, mailbox: Mailbox) -> None:
    if mailbox.address.lower() in {each.address.lower() for each in orders.active(session)}:
        raise InvalidInput(
            "Records are being sent to this address already. Stop that first, or refuse this."
        )


def _may_fetch(grant: Grant, client_id: str, asked: Asked, kept: Kept) -> Authorization:
    lines = tuple(part.line for part in asked.proposal.parts if part.line.text in kept.lines)
    return Authorization(
        grant_id=grant.id,
        client_id=client_id,
        account_id=grant.created_by,
        scopes=str(Wishes(tuple(dict.fromkeys(lines)))),
        redirect_uri="",
        code_challenge="",
        chain_key=ids.random_bytes(32),
    )


def refuse(vault: Vault, grant_id: str, actor: Mapping[str, Any], *, now: datetime) -> None:
    """Say no to a proposal; it asks for no password. Raises NotFound, Conflict."""
    with vault.read() as session:
        if one(session, vault, grant_id).answer is not Answer.WAITING:
            raise Conflict("This was answered already.")
    gate.end(vault, grant_id, REFUSED, actor, now=now)


# ------------------------------------------------------------------ at the token endpoint


def whose(house: House, consent_id: str) -> str | None:
    """Return whose record a Consent is about, or None."""
    with house.read() as session:
        found = select(Route.patient_id).where(Route.grant_id == consent_id, Route.bearer == 1)
        return session.scalars(found.limit(1)).first()


def granted(session: Session, consent_id: str, client_id: str) -> str | None:
    """Return the active grant by which a server fetches under a Consent, or None."""
    wanted = (
        select(Grant.id)
        .join(ConsentAsked, ConsentAsked.grant_id == Grant.id)
        .where(
            ConsentAsked.consent_id == consent_id,
            ConsentAsked.server_id == client_id,
            Grant.state == GrantState.ACTIVE,
        )
    )
    return session.scalars(wanted.limit(1)).first()


def note(vault: Vault, consent_id: str, client_id: str, error: str) -> None:
    """Note for the patient why a server got no token under a Consent."""
    with vault.write() as session:
        for row in session.scalars(
            select(ConsentAsked).where(
                ConsentAsked.consent_id == consent_id, ConsentAsked.server_id == client_id
            )
        ):
            row.error = error

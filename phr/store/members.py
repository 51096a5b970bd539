"""Members of a patient's record: invited, answered, confirmed by fingerprint, removed.

A member is pinned by public key inside the vault; the house keeps a copy for its routes.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session as Rows

from phr import clock, ids
from phr.errors import Conflict, Denied, Ended, NotFound, WrongSecret
from phr.store import accounts, audit, limits
from phr.store.database import Priority
from phr.store.house import House
from phr.store.models import (
    Account,
    Invitation,
    InvitationState,
    Member,
    MemberRole,
    Membership,
    Patient,
)
from phr.store.slots import fingerprint_words
from phr.store.vault import Vaults

INVITED_FOR = timedelta(days=3)
KEEPERS = (MemberRole.SELF, MemberRole.PROXY)


@dataclass(frozen=True, slots=True)
class Invited:
    """A fresh invitation; the code is shown once and told to the new member."""

    id: str
    code: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class InvitationView:
    """An invitation that is not over. `fingerprint` is compared by both people once answered."""

    id: str
    patient_id: str
    patient_name: str
    role: str
    state: str
    expires_at: datetime
    account_name: str | None
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member as the household page shows it."""

    account_id: str
    name: str
    role: str
    since: datetime
    fingerprint: str


def fingerprint_of(house: House, account_id: str) -> str:
    """Return the words of an account's key that two people compare."""
    return fingerprint_words(accounts.account_of(house, account_id).public_key)


def members_of(house: House, patient_id: str) -> list[MemberView]:
    """Return the members of a patient, the oldest first."""
    query = (
        select(Membership, Account)
        .join(Account, Account.id == Membership.account_id)
        .where(Membership.patient_id == patient_id)
        .order_by(Membership.since)
    )
    with house.read() as session:
        return [
            MemberView(a.id, a.name, m.role, m.since, fingerprint_words(a.public_key))
            for m, a in session.execute(query)
        ]


def role_of(house: House, patient_id: str, account_id: str) -> str | None:
    """Return the role of an account in a patient's record; None when it is no member."""
    with house.read() as session:
        row = session.get(Membership, (account_id, patient_id))
        return None if row is None else row.role


# ---------------------------------------------------------------------- inviting


def invite(
    house: House, patient_id: str, *, by: str, role: str, lasts: timedelta = INVITED_FOR
) -> Invited:
    """Offer a place in a patient's record; `by` is the account of a member who may change it."""
    wanted, secret, now = MemberRole(role), ids.new_secret(16), clock.now()
    row = Invitation(
        id=ids.new_id(),
        code_hash=ids.fingerprint(secret),
        patient_id=patient_id,
        role=wanted,
        invited_by=by,
        created_at=now,
        expires_at=now + lasts,
    )
    with house.write() as session:
        _keeper(session, patient_id, by)
        if wanted == MemberRole.SELF and _with_role(session, patient_id, MemberRole.SELF):
            raise Conflict("This record has its own person already.")
        session.add(row)
        session.flush()
        audit.append_house(session, house, "member.invited", patient=patient_id, by=by)
        return Invited(row.id, secret, row.expires_at)


def look_up(house: House, code: str, *, network: str) -> InvitationView:
    """Return an open invitation before an account is made for it. Raises as `answer` does."""
    limits.take(house, [(f"invitation:{network}", limits.CODE)])
    with house.read() as session:
        view = _view(session, _open_invitation(session, code))
    limits.passed(house, f"invitation:{network}")
    return view


def answer(house: House, code: str, account_id: str) -> InvitationView:
    """Take an invitation for the account signed in; it then waits for confirmation.

    Raises WrongSecret (unknown code), Ended (too late), Conflict (a member already), TooManyTries.
    """
    key = f"invitation:{account_id}"
    limits.take(house, [(key, limits.CODE)])
    with house.write() as session:
        row = _open_invitation(session, code)
        if session.get(Membership, (account_id, row.patient_id)) is not None:
            raise Conflict("You are a member of this record already.")
        row.state, row.account_id = InvitationState.ANSWERED, account_id
        audit.append_house(
            session, house, "member.answered", patient=row.patient_id, account=account_id
        )
        session.flush()
        view = _view(session, row)
    limits.passed(house, key)
    return view


def invitations(house: House, patient_id: str) -> list[InvitationView]:
    """Return the invitations to a patient's record that are not over."""
    query = select(Invitation).where(
        Invitation.patient_id == patient_id,
        Invitation.state.in_((InvitationState.OPEN, InvitationState.ANSWERED)),
        Invitation.expires_at > clock.now(),
    )
    with house.read() as session:
        return [_view(session, row) for row in session.scalars(query)]


def is_waiting(house: House, account_id: str) -> bool:
    """Say whether an account answered an invitation and was not let in yet."""
    query = select(func.count()).where(
        Invitation.account_id == account_id,
        Invitation.state == InvitationState.ANSWERED,
        Invitation.expires_at > clock.now(),
    )
    with house.read() as session:
        return bool(session.scalar(query))


def end_invitation(house: House, invitation_id: str, *, by: str) -> None:
    """Withdraw an invitation."""
    with house.write(Priority.URGENT) as session:
        row = session.get_one(Invitation, invitation_id)
        _keeper(session, row.patient_id, by)
        if row.state != InvitationState.CONFIRMED:
            row.state = InvitationState.ENDED


def confirm_member(
    house: House, vaults: Vaults, invitation_id: str, *, by: str, fingerprint: str
) -> None:
    """Pin the new member's key inside the vault and wrap the vault key to it.

    `fingerprint` is what the confirming member was told by the new one. Raises WrongSecret when it
    is not the key that answered, Sealed, Ended, NotFound.
    """
    with house.read() as session:
        row = session.get_one(Invitation, invitation_id)
        _keeper(session, row.patient_id, by)
        if row.state != InvitationState.ANSWERED or row.expires_at <= clock.now():
            raise Ended("This invitation is not waiting for confirmation.")
        account = session.get_one(Account, row.account_id)
    told = "".join(fingerprint.upper().split())
    if not ids.same(told, fingerprint_words(account.public_key).replace(" ", "")):
        raise WrongSecret("Those are not the four groups on their screen. Nobody was let in.")
    vault, now = vaults.get(row.patient_id), clock.now()
    member = Member(
        account_id=account.id,
        name=account.name,
        public_key=account.public_key,
        role=row.role,
        pinned_at=now,
        pinned_by=by,
    )
    vaults.pin(vault, member, accounts.wraps_of(house, account.id))
    with house.write(Priority.URGENT) as session:
        session.get_one(Invitation, invitation_id).state = InvitationState.CONFIRMED
        session.merge(
            Membership(account_id=account.id, patient_id=row.patient_id, role=row.role, since=now)
        )
        audit.append_house(
            session, house, "member.added", patient=row.patient_id, account=account.id, by=by
        )
    vaults.note(
        row.patient_id,
        "member.added",
        _actor(house, by),
        account=account.id,
        member=account.name,
        role=row.role,
    )


# ---------------------------------------------------------------------- changing and removing


def set_role(
    house: House, vaults: Vaults, patient_id: str, account_id: str, role: str, *, by: str
) -> None:
    """Change a member's role. Somebody must remain who may change the record."""
    wanted, vault = MemberRole(role), vaults.get(patient_id)
    name = accounts.account_of(house, account_id).name
    with house.write(Priority.URGENT) as session:
        _keeper(session, patient_id, by)
        row = session.get_one(Membership, (account_id, patient_id))
        row.role = wanted
        session.flush()
        _refuse_orphan(session, patient_id)
        audit.append_house(
            session, house, "member.role", patient=patient_id, account=account_id, by=by
        )
    with vault.write(Priority.URGENT) as session:
        session.get_one(Member, account_id).role = wanted
        audit.append(
            session,
            vault,
            "member.role",
            _actor(house, by),
            account=account_id,
            member=name,
            role=wanted,
        )


def remove_member(
    house: House, vaults: Vaults, patient_id: str, account_id: str, *, by: str
) -> None:
    """End a membership at once and change the vault's key, so that a kept copy of it is useless.

    A member may also leave. Backups made before stay readable to a removed member: the page says
    so. Raises Conflict when nobody who may change the record would remain, Sealed.
    """
    vault = vaults.get(patient_id)
    name = accounts.account_of(house, account_id).name
    with house.write(Priority.URGENT) as session:
        if by != account_id:
            _keeper(session, patient_id, by)
        row = session.get_one(Membership, (account_id, patient_id))
        role = row.role
        session.delete(row)
        session.flush()
        _refuse_orphan(session, patient_id)
        session.execute(
            delete(Invitation).where(
                Invitation.patient_id == patient_id, Invitation.account_id == account_id
            )
        )
        audit.append_house(
            session, house, "member.removed", patient=patient_id, account=account_id, by=by
        )
    with vault.write(Priority.URGENT) as session:
        audit.append(
            session,
            vault,
            "member.removed",
            _actor(house, by),
            account=account_id,
            member=name,
            role=role,
        )
    vaults.unpin(vault, account_id)


def _open_invitation(session: Rows, code: str) -> Invitation:
    fitting = Invitation.code_hash == ids.fingerprint(code.strip())
    row = session.scalar(select(Invitation).where(fitting))
    if row is None:
        raise WrongSecret("This invitation code is not known.")
    if row.state != InvitationState.OPEN or row.expires_at <= clock.now():
        raise Ended("This invitation has ended. Ask for a new one.")
    return row


def _keeper(session: Rows, patient_id: str, account_id: str) -> None:
    """Refuse everybody who may not change who the members are; strangers learn nothing."""
    row = session.get(Membership, (account_id, patient_id))
    if row is None:
        raise NotFound
    if row.role not in KEEPERS:
        raise Denied("a viewer cannot change members")


def _refuse_orphan(session: Rows, patient_id: str) -> None:
    if not any(_with_role(session, patient_id, role) for role in KEEPERS):
        raise Conflict("Somebody must remain who may act for this record.")


def _with_role(session: Rows, patient_id: str, role: MemberRole) -> int:
    query = select(func.count()).where(Membership.patient_id == patient_id, Membership.role == role)
    return session.scalar(query) or 0


def _actor(house: House, account_id: str) -> dict[str, str]:
    name = accounts.account_of(house, account_id).name
    return {"kind": "account", "id": account_id, "name": name}


def _view(session: Rows, row: Invitation) -> InvitationView:
    account = session.get(Account, row.account_id) if row.account_id else None
    return InvitationView(
        row.id,
        row.patient_id,
        session.get_one(Patient, row.patient_id).name,
        row.role,
        row.state,
        row.expires_at,
        account.name if account else None,
        fingerprint_words(account.public_key) if account else None,
    )

"""Every table of house.db (`HouseBase`) and of a vault (`VaultBase`). Pure data, no queries.

Instants are whole milliseconds UTC, each state is one text column with a CHECK, secrets are kept
only as SHA-256. The record tables are plain Core tables: they are the hot path of `phr.keep`.
"""

import json
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import REAL, TypeDecorator

from phr import clock

STRICT = {"sqlite_strict": True}
READY_WINDOW, READY_TYPES = 4096, 1024  # pks of a window; more than there are types
CLUSTERED = {"sqlite_strict": True, "sqlite_with_rowid": False}
NAMES = {"ix": "%(table_name)s_%(column_0_name)s", "ck": "%(constraint_name)s"}


class Instant(TypeDecorator[datetime]):
    """An aware UTC instant, kept as INTEGER milliseconds since 1970."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Turn an aware instant into milliseconds."""
        return None if value is None else clock.to_ms(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Turn milliseconds into an aware instant."""
        return None if value is None else clock.from_ms(value)


class Json(TypeDecorator[Any]):
    """A JSON value in a TEXT column (STRICT tables have no JSON type)."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Write compact JSON."""
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Read JSON."""
        return None if value is None else json.loads(value)


def known(column: str, states: type[StrEnum]) -> CheckConstraint:
    """Return a CHECK that `column` holds one of the values of `states`."""
    listed = ", ".join(f"'{state.value}'" for state in states)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


# --------------------------------------------------------------------------- house.db


class HouseBase(DeclarativeBase):
    """Tables of house.db. No clinical data."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {datetime: Instant, str: Text, bytes: LargeBinary, int: Integer}  # noqa: RUF012


class AccountState(StrEnum):
    """An account is active, or disabled by an administrator."""

    ACTIVE = "active"
    DISABLED = "disabled"


class Account(HouseBase):
    """Somebody who signs in. Its X25519 private key is wrapped by password and by recovery kit."""

    __tablename__ = "account"
    __table_args__ = (known("state", AccountState), STRICT)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)  # as typed, NFC
    name_key: Mapped[str] = mapped_column(unique=True)  # case-folded
    administrator: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(default=AccountState.ACTIVE)
    public_key: Mapped[bytes]
    password_wrap: Mapped[dict[str, Any]] = mapped_column(Json)  # see store.slots.Wrap
    kit_wrap: Mapped[dict[str, Any] | None] = mapped_column(Json)
    kit_confirmed_at: Mapped[datetime | None]
    totp_secret: Mapped[bytes | None]
    totp_last_step: Mapped[int | None]  # a code is accepted once (RFC 6238 §5.2)
    created_at: Mapped[datetime]


class PatientState(StrEnum):
    """A patient's vault exists, or was shredded (the id stays remembered)."""

    ACTIVE = "active"
    SHREDDED = "shredded"


class Patient(HouseBase):
    """The person a record is about; `id` is also the vault's id and file name."""

    __tablename__ = "patient"
    __table_args__ = (known("state", PatientState), STRICT)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    colour: Mapped[int] = mapped_column(default=1)  # 1..4, the band of the person switcher
    state: Mapped[str] = mapped_column(default=PatientState.ACTIVE)
    demo: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    # High-water mark of the vault's audit chain, kept outside the vault (DESIGN §4).
    audit_epoch: Mapped[int] = mapped_column(default=0)
    audit_seq: Mapped[int] = mapped_column(default=0)
    audit_head: Mapped[bytes | None]


class MemberRole(StrEnum):
    """What a member may do: own the record, act for its person, or only look."""

    SELF = "self"
    PROXY = "proxy"
    VIEWER = "viewer"


class Membership(HouseBase):
    """House-side copy of who is a member; the pinned truth is `Member` in the vault."""

    __tablename__ = "membership"
    __table_args__ = (known("role", MemberRole), STRICT)

    account_id: Mapped[str] = mapped_column(
        ForeignKey("account.id", ondelete="CASCADE"), primary_key=True
    )
    patient_id: Mapped[str] = mapped_column(
        ForeignKey("patient.id", ondelete="CASCADE"), primary_key=True
    )
    role: Mapped[str]
    since: Mapped[datetime]


class InvitationState(StrEnum):
    """An invitation waits for an answer, then for confirmation by fingerprint, then is over."""

    OPEN = "open"
    ANSWERED = "answered"
    CONFIRMED = "confirmed"
    ENDED = "ended"


class Invitation(HouseBase):
    """An offer to become a member of a patient's record."""

    __tablename__ = "invitation"
    __table_args__ = (known("state", InvitationState), known("role", MemberRole), STRICT)

    id: Mapped[str] = mapped_column(primary_key=True)
    code_hash: Mapped[bytes]
    patient_id: Mapped[str] = mapped_column(ForeignKey("patient.id", ondelete="CASCADE"))
    role: Mapped[str]
    state: Mapped[str] = mapped_column(default=InvitationState.OPEN)
    invited_by: Mapped[str]
    account_id: Mapped[str | None]  # who answered
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class Session(HouseBase):
    """A signed-in browser. The id is a 256-bit secret of which only the hash is kept."""

    __tablename__ = "session"
    __table_args__ = (STRICT,)

    id_hash: Mapped[bytes] = mapped_column(primary_key=True)
    public_id: Mapped[str] = mapped_column(unique=True)  # names it in the list of sessions
    account_id: Mapped[str] = mapped_column(
        ForeignKey("account.id", ondelete="CASCADE"), index=True
    )
    browser: Mapped[str]  # coarse: "Firefox on Linux"
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    stepped_up_at: Mapped[datetime | None]
    stepped_up_with: Mapped[str | None]  # "password", "totp"
    flash: Mapped[list[Any] | None] = mapped_column(Json)


class Attempt(HouseBase):
    """Failed tries per key ("signin:<account>", "setup", ...); survives a restart."""

    __tablename__ = "attempt"
    __table_args__ = (STRICT,)

    key: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int]
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]


class Route(HouseBase):
    """Routing id of a handle -> whose vault it lives in. Ended ids stay, so they stay ended."""

    __tablename__ = "route"
    __table_args__ = (STRICT,)

    id: Mapped[str] = mapped_column(primary_key=True)
    patient_id: Mapped[str] = mapped_column(index=True)
    grant_id: Mapped[str] = mapped_column(index=True)
    bearer: Mapped[int] = mapped_column(default=0)  # 1: the tokens of a grant begin with it
    ticket: Mapped[int | None]  # of a Permission Ticket: its place in the list of what was stopped
    ended_at: Mapped[datetime | None]


class Tombstone(HouseBase):
    """Ended grants and shredded vaults; a restored backup does not bring them back."""

    __tablename__ = "tombstone"
    __table_args__ = (STRICT,)

    kind: Mapped[str] = mapped_column(primary_key=True)  # "grant", "vault", "device"
    id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime]


class Setting(HouseBase):
    """Small facts of the house ("setup_code_hash", "last_backup", ...)."""

    __tablename__ = "setting"
    __table_args__ = (STRICT,)

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Any] = mapped_column(Json)


class PendingAuthorization(HouseBase):
    """An authorization request on its way; the verifier itself waits in the vault's connection."""

    __tablename__ = "pending_authorization"
    __table_args__ = (STRICT,)

    state_hash: Mapped[bytes] = mapped_column(primary_key=True)
    session_hash: Mapped[
        bytes | None
    ]  # browser session it is bound to; None: the CLI's own listener
    patient_id: Mapped[str] = mapped_column(ForeignKey("patient.id", ondelete="CASCADE"))
    connection_id: Mapped[int]
    expires_at: Mapped[datetime]


class ClientState(StrEnum):
    """An app that registered itself waits until a patient has let it in; it may be blocked."""

    WAITING = "waiting"
    KNOWN = "known"
    BLOCKED = "blocked"


class Client(HouseBase):
    """An app (OAuth client) that may ask the patients of this house for access."""

    __tablename__ = "client"
    __table_args__ = (known("state", ClientState), STRICT)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]  # as it calls itself; shown small
    state: Mapped[str]
    redirect_uris: Mapped[list[Any]] = mapped_column(Json)  # compared whole; none: backend service
    launch_url: Mapped[str | None]
    jwks: Mapped[dict[str, Any] | None] = mapped_column(Json)  # public keys, or where they are
    jwks_uri: Mapped[str | None]
    scope: Mapped[str]  # what it asks for; empty: each request says
    patient_id: Mapped[str | None] = mapped_column(  # a backend service belongs to one record
        ForeignKey("patient.id", ondelete="CASCADE"), index=True
    )
    registered_by: Mapped[str | None]  # account id; None: it registered itself
    network: Mapped[str | None]  # from where, if it did
    created_at: Mapped[datetime]


class SeenAssertion(HouseBase):
    """Ids of client assertions that were used, until they expire (RFC 7523 §3: `jti`)."""

    __tablename__ = "seen_assertion"
    __table_args__ = (CLUSTERED,)

    id_hash: Mapped[bytes] = mapped_column(primary_key=True)  # of client id and `jti`
    expires_at: Mapped[datetime]


class SealedEvent(HouseBase):
    """What happened at a sealed vault, encrypted to its public key; merged at opening."""

    __tablename__ = "sealed_event"
    __table_args__ = (STRICT,)

    id: Mapped[int] = mapped_column(primary_key=True)
    patient_id: Mapped[str] = mapped_column(
        ForeignKey("patient.id", ondelete="CASCADE"), index=True
    )
    at: Mapped[datetime]
    box: Mapped[bytes]


class MailRoute(HouseBase):
    """Whose a Direct address is: mail is taken in while that record is sealed, too."""

    __tablename__ = "mail_route"
    __table_args__ = (STRICT,)

    address: Mapped[str] = mapped_column(primary_key=True)  # in lower case
    patient_id: Mapped[str] = mapped_column(
        ForeignKey("patient.id", ondelete="CASCADE"), index=True
    )


class HouseAudit(HouseBase):
    """The house's own hash-chained log: sign-in, members, restore."""

    __tablename__ = "house_audit"
    __table_args__ = (STRICT,)

    seq: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    event: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(Json)
    previous: Mapped[bytes]
    hash: Mapped[bytes]


# --------------------------------------------------------------------------- a vault


class VaultBase(DeclarativeBase):
    """Tables of one patient's vault."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {datetime: Instant, str: Text, bytes: LargeBinary, int: Integer}  # noqa: RUF012


class VaultFact(VaultBase):
    """Facts of the vault: its id, audit epoch, the keys of audit, local ids and sealed boxes."""

    __tablename__ = "vault_fact"
    __table_args__ = (STRICT,)

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes]


class Member(VaultBase):
    """A member, pinned by public key inside the vault; keys are wrapped only to pinned members."""

    __tablename__ = "member"
    __table_args__ = (known("role", MemberRole), STRICT)

    account_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    public_key: Mapped[bytes]
    role: Mapped[str]
    pinned_at: Mapped[datetime]
    pinned_by: Mapped[str | None]
    seen_at: Mapped[datetime | None]  # last look at Home: what is newer is "new"


class ConnectionState(StrEnum):
    """draft -> active <-> paused; active -> needs_reauthorisation -> active; * -> removed."""

    DRAFT = "draft"
    ACTIVE = "active"
    PAUSED = "paused"
    NEEDS_REAUTHORISATION = "needs_reauthorisation"
    REMOVED = "removed"


class Connection(VaultBase):
    """An authorised link to an endpoint, or the place that uploads and own statements belong to."""

    __tablename__ = "connection"
    __table_args__ = (known("state", ConnectionState), STRICT)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]  # key of connectors.CONNECTORS
    name: Mapped[str]
    base_url: Mapped[str]
    endpoint: Mapped[dict[str, Any]] = mapped_column(
        Json, default=dict
    )  # oauth.Endpoint: discovered addresses, quirks
    client: Mapped[dict[str, Any]] = mapped_column(
        Json, default=dict
    )  # client id, secret, scopes, redirect
    credentials: Mapped[dict[str, Any]] = mapped_column(
        Json, default=dict
    )  # oauth.Credentials: tokens, expiry
    pending: Mapped[dict[str, Any] | None] = mapped_column(
        Json
    )  # state hash and PKCE verifier of an open authorization
    remote_patient: Mapped[str | None]  # pinned at the first authorisation
    state: Mapped[str] = mapped_column(default=ConnectionState.DRAFT)
    sentence: Mapped[str | None]  # what to tell the person about its state
    cursor: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    next_pull_at: Mapped[datetime | None] = mapped_column(index=True)
    interval_hours: Mapped[int] = mapped_column(default=24)
    last_pull_at: Mapped[datetime | None]
    last_full_at: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(default=0)
    claimed_by: Mapped[int | None]  # the running pull
    demo: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]


class PullState(StrEnum):
    """How a pull stands."""

    RUNNING = "running"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    STOPPED = "stopped"


class Pull(VaultBase):
    """One run over a connection, or one upload."""

    __tablename__ = "pull"
    __table_args__ = (known("state", PullState), STRICT)

    id: Mapped[int] = mapped_column(primary_key=True)
    connection_id: Mapped[int] = mapped_column(
        ForeignKey("connection.id", ondelete="CASCADE"), index=True
    )
    state: Mapped[str] = mapped_column(default=PullState.RUNNING)
    full: Mapped[int] = mapped_column(default=1)
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    sentence: Mapped[str | None]
    faults: Mapped[str] = mapped_column(default="")  # that it tells of: `phr.told.kept_as`


class LedgerState(StrEnum):
    """What came of asking for one kind of record."""

    ASKING = "asking"
    DONE = "done"
    REFUSED = "refused"  # the server said no
    BROKEN = "broken"  # it tried and something failed


class LedgerLine(VaultBase):
    """One line of a pull's ledger: one search (a chain of pages), what was asked and what came."""

    __tablename__ = "ledger_line"
    __table_args__ = (known("state", LedgerState), STRICT)

    pull_id: Mapped[int] = mapped_column(
        ForeignKey("pull.id", ondelete="CASCADE"), primary_key=True
    )
    chain: Mapped[str] = mapped_column(primary_key=True)  # "Observation?category=laboratory"
    type: Mapped[str]
    state: Mapped[str] = mapped_column(default=LedgerState.ASKING)
    pages: Mapped[int] = mapped_column(default=0)
    got: Mapped[int] = mapped_column(default=0)
    new: Mapped[int] = mapped_column(default=0)
    changed: Mapped[int] = mapped_column(default=0)
    unchanged: Mapped[int] = mapped_column(default=0)
    quarantined: Mapped[int] = mapped_column(default=0)
    claimed: Mapped[int | None]  # Bundle.total as the server claimed it
    next_url: Mapped[
        str | None
    ]  # resume point, written in the same transaction as the page's records
    sentence: Mapped[str | None]
    faults: Mapped[str] = mapped_column(default="")  # that it tells of


class Quarantined(VaultBase):
    """An item that could not be kept as a record: the bytes and the reason a person can read."""

    __tablename__ = "quarantined"
    __table_args__ = (STRICT,)

    id: Mapped[int] = mapped_column(primary_key=True)
    pull_id: Mapped[int] = mapped_column(ForeignKey("pull.id", ondelete="CASCADE"), index=True)
    connection_id: Mapped[int] = mapped_column(
        ForeignKey("connection.id", ondelete="CASCADE"), index=True
    )
    at: Mapped[datetime]
    place: Mapped[str]  # "entry 17", "line 3", "labs.ndjson line 3"
    reason: Mapped[str]
    faults: Mapped[str] = mapped_column(default="")  # that it tells of
    hash: Mapped[bytes]
    body: Mapped[bytes]  # capped; zstd


class RecipientKind(StrEnum):
    """How a recipient is reached."""

    LINK = "link"
    FOLDER = "folder"
    DIRECT = "direct"  # mail to a Direct address
    PAPER = "paper"  # printed or saved by the patient, to be handed over
    APP = "app"  # asks the FHIR API itself
    HEALTH_LINK = "health_link"  # opens a SMART Health Link with software of its own
    CARD = "card"  # whoever holds the printed emergency card


class Recipient(VaultBase):
    """A doctor, practice, app or server that the patient may share with."""

    __tablename__ = "recipient"
    __table_args__ = (known("kind", RecipientKind), STRICT)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]  # as the patient typed it
    kind: Mapped[str]
    verification: Mapped[str] = mapped_column(  # none, tofu, code, directory, person, anchor
        default="none"
    )
    identifiers: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    created_at: Mapped[datetime]


class GrantState(StrEnum):
    """draft -> active <-> suspended -> ended(reason)."""

    DRAFT = "draft"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    ENDED = "ended"


class Grant(VaultBase):
    """The patient's standing decision. Ended is final."""

    __tablename__ = "grant"
    __table_args__ = (known("state", GrantState), STRICT)

    id: Mapped[str] = mapped_column(primary_key=True)
    recipient_id: Mapped[str] = mapped_column(ForeignKey("recipient.id"), index=True)
    role: Mapped[str]  # key of sharing.provision.ROLES
    purpose: Mapped[str] = mapped_column(default="TREAT")  # HL7 v3 PurposeOfUse
    reason: Mapped[str | None]  # the purpose in the patient's own words; the recipient reads it
    provision: Mapped[dict[str, Any]] = mapped_column(Json)
    state: Mapped[str] = mapped_column(default=GrantState.DRAFT)
    ended_because: Mapped[str | None]
    created_by: Mapped[str]  # account id
    shared_by: Mapped[str] = mapped_column(default="")  # that account's name, for the recipient
    created_at: Mapped[datetime]
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    uses_left: Mapped[int | None]  # None: not limited by number


class Export(VaultBase):
    """What an app asked to have exported (FHIR Bulk Data): the question, never a record."""

    __tablename__ = "export"
    __table_args__ = (STRICT,)

    id: Mapped[str] = mapped_column(primary_key=True)
    grant_id: Mapped[str] = mapped_column(ForeignKey("grant.id", ondelete="CASCADE"), index=True)
    request: Mapped[str]  # the address as it was asked for
    types: Mapped[list[str]] = mapped_column(Json)
    since: Mapped[datetime | None]
    at: Mapped[datetime]  # what this server took in later is not part of it
    counts: Mapped[dict[str, int] | None] = mapped_column(Json)  # None: not looked through yet
    ends_at: Mapped[datetime]


class Approval(VaultBase):
    """Who confirmed a grant, when, with which factor, and the hash of exactly what was shown."""

    __tablename__ = "approval"
    __table_args__ = (STRICT,)

    id: Mapped[int] = mapped_column(primary_key=True)
    grant_id: Mapped[str] = mapped_column(ForeignKey("grant.id", ondelete="CASCADE"), index=True)
    account_id: Mapped[str]
    factor: Mapped[str]  # "password", "totp"
    factor_at: Mapped[datetime]
    at: Mapped[datetime]
    shown_hash: Mapped[bytes]
    shown: Mapped[str]  # the text itself


class HandleKind(StrEnum):
    """Forms in which a grant is exercised."""

    LINK = "link"
    PUSH = "push"
    PRINT = "print"
    TOKEN = "token"  # noqa: S105 - the name of a kind: an access token of the FHIR API
    HEALTH_LINK = "health_link"  # a SMART Health Link: the address of its manifest
    HEALTH_FILE = "health_file"  # one file of a Health Link, to be fetched once
    CARD = "card"  # the address on the emergency card; each opening is bound to a browser
    TICKET = "ticket"  # a SMART Permission Ticket: what it is exchanged for are tokens


class HandleState(StrEnum):
    """A handle is live, bound to a browser, or over."""

    LIVE = "live"
    CLAIMED = "claimed"
    ENDED = "ended"


class Handle(VaultBase):
    """A secret issued under a grant; only SHA-256 values are stored."""

    __tablename__ = "handle"
    __table_args__ = (known("kind", HandleKind), known("state", HandleState), STRICT)

    id: Mapped[str] = mapped_column(primary_key=True)  # the grant's routing id
    grant_id: Mapped[str] = mapped_column(ForeignKey("grant.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(default=HandleState.LIVE)
    secret_hash: Mapped[bytes]
    code_salt: Mapped[bytes | None]
    code_hash: Mapped[bytes | None]  # of the 6-digit code, salted
    content_key: Mapped[bytes | None]  # of a Health Link: its files are encrypted with it
    tries_left: Mapped[int] = mapped_column(default=5)
    devices_left: Mapped[int] = mapped_column(default=1)  # how many browsers may still claim it
    scopes: Mapped[str | None]  # of a token: the OAuth scopes granted, as they were said back
    expires_at: Mapped[datetime | None]  # of a token; the grant's own end counts too
    created_at: Mapped[datetime]


class ClaimedBrowser(VaultBase):
    """A browser bound to a link by the first right code; its cookie is stored as SHA-256."""

    __tablename__ = "claimed_browser"
    __table_args__ = (STRICT,)

    cookie_hash: Mapped[bytes] = mapped_column(primary_key=True)
    handle_id: Mapped[str] = mapped_column(ForeignKey("handle.id", ondelete="CASCADE"), index=True)
    browser: Mapped[str]
    claimed_at: Mapped[datetime]
    visit_at: Mapped[datetime | None]  # last page of the running visit; a visit is one use
    ends_at: Mapped[datetime | None]  # of an opened emergency card; the grant's own end counts too


class Authorization(VaultBase):
    """What an app was given under a grant (RFC 6749): a code to redeem once, then a refresh token.

    Each refresh token follows from the one before it under `chain_key` and bears its mark, so that
    a lost answer can be given again and one used twice be recognised, without any being kept.
    """

    __tablename__ = "authorization"
    __table_args__ = (STRICT,)

    grant_id: Mapped[str] = mapped_column(
        ForeignKey("grant.id", ondelete="CASCADE"), primary_key=True
    )
    client_id: Mapped[str] = mapped_column(index=True)
    account_id: Mapped[str]  # who approved
    scopes: Mapped[str]  # as granted
    redirect_uri: Mapped[str]  # empty: a server that asks without a person
    code_hash: Mapped[bytes | None]
    code_challenge: Mapped[str]
    code_ends_at: Mapped[datetime | None]
    redeemed_at: Mapped[datetime | None]
    nonce: Mapped[str | None]
    chain_key: Mapped[bytes]
    refresh_hash: Mapped[bytes | None]  # of the newest
    refreshed_at: Mapped[datetime | None]


class ConsentAsked(VaultBase):
    """A grant that an app proposed as a FHIR Consent: a server fetches by itself, or mail is sent.

    One Consent may be given to several recipients: each is a grant of its own with its own answer.
    """

    __tablename__ = "consent_asked"
    __table_args__ = (STRICT,)

    grant_id: Mapped[str] = mapped_column(
        ForeignKey("grant.id", ondelete="CASCADE"), primary_key=True
    )
    consent_id: Mapped[str] = mapped_column(index=True)  # the first of its grants
    client_id: Mapped[str]  # the app that proposed it
    body: Mapped[str]  # the Consent as it came, which is read again for each recipient
    address: Mapped[str | None]  # of the server or mailbox that it is for; None: none is named yet
    push: Mapped[dict[str, Any] | None] = mapped_column(Json)  # for a mailbox: once? how long?
    jwks: Mapped[dict[str, Any] | None] = mapped_column(Json)  # its keys, where they were given
    server_id: Mapped[str | None]  # client id of that server, once a patient approved
    error: Mapped[str | None]  # why the last token was refused; for the patient alone
    used_at: Mapped[datetime | None]  # when the last token was given
    created_at: Mapped[datetime]


class FetchAsked(VaultBase):
    """Another server from which an app asks this record to fetch, until the patient answers."""

    __tablename__ = "fetch_asked"
    __table_args__ = (STRICT,)

    id: Mapped[str] = mapped_column(primary_key=True)
    client_id: Mapped[str]  # the app that asks
    url: Mapped[str]  # FHIR base of the other server
    consent: Mapped[str]  # id of the Consent there
    connection_id: Mapped[int | None]  # once the patient agreed
    created_at: Mapped[datetime]


class DeliveryState(StrEnum):
    """queued -> sending -> sent; sending -> queued (temporary) or failed; queued -> stopped."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    STOPPED = "stopped"
    UNCERTAIN = "uncertain"


class Delivery(VaultBase):
    """One chain of attempts to carry a grant's records to its recipient through a channel."""

    __tablename__ = "delivery"
    __table_args__ = (known("state", DeliveryState), STRICT)

    id: Mapped[str] = mapped_column(primary_key=True)
    grant_id: Mapped[str] = mapped_column(ForeignKey("grant.id", ondelete="CASCADE"), index=True)
    channel: Mapped[str]  # key of sharing.channels.CHANNELS
    address: Mapped[str]
    state: Mapped[str] = mapped_column(default=DeliveryState.QUEUED)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime | None] = mapped_column(index=True)
    sentence: Mapped[str | None]
    receipt: Mapped[dict[str, Any] | None] = mapped_column(Json)
    created_at: Mapped[datetime]
    claimed_at: Mapped[datetime | None]  # when it began to be sent
    settled_at: Mapped[datetime | None]
    part: Mapped[int] = mapped_column(default=1)  # of so many messages that were planned together
    parts: Mapped[int] = mapped_column(default=1)
    message_id: Mapped[str | None] = mapped_column(index=True)  # as sent, for what is answered
    answer: Mapped[str | None]  # processed, dispatched, failed: what the recipient's server said
    answered_at: Mapped[datetime | None]


class Carried(VaultBase):
    """Which version of a record a delivery carries: settled before it goes, so never twice."""

    __tablename__ = "carried"
    __table_args__ = (CLUSTERED,)

    delivery_id: Mapped[str] = mapped_column(
        ForeignKey("delivery.id", ondelete="CASCADE"), primary_key=True
    )
    record_pk: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]


class PushState(StrEnum):
    """active -> stopped. An order for once stays active when everything of it is out."""

    ACTIVE = "active"
    STOPPED = "stopped"


class PushJob(VaultBase):
    """A grant's standing order to send: once now, or whenever new records arrive."""

    __tablename__ = "push_job"
    __table_args__ = (known("state", PushState), STRICT)

    grant_id: Mapped[str] = mapped_column(
        ForeignKey("grant.id", ondelete="CASCADE"), primary_key=True
    )
    channel: Mapped[str]  # key of sharing.channels.CHANNELS
    address: Mapped[str]
    standing: Mapped[int]  # 1: also what arrives later
    state: Mapped[str] = mapped_column(default=PushState.ACTIVE)
    seen: Mapped[str | None]  # what had been taken in when it was last planned
    created_at: Mapped[datetime]


class MailMode(StrEnum):
    """How Direct mail goes: sealed here for the recipient, or by a provider who can read it."""

    STA = "sta"
    HISP = "hisp"


class Postbox(VaultBase):
    """The patient's own Direct address and the mail servers it uses; one row at most."""

    __tablename__ = "postbox"
    __table_args__ = (known("mode", MailMode), STRICT)

    id: Mapped[int] = mapped_column(primary_key=True, default=1)
    address: Mapped[str]
    mode: Mapped[str]
    bound: Mapped[str] = mapped_column(default="address")  # own certificates: address or domain
    smtp_host: Mapped[str]
    smtp_port: Mapped[int]
    smtp_login: Mapped[str | None]
    smtp_password: Mapped[str | None]
    imap_host: Mapped[str | None]
    imap_port: Mapped[int | None]
    imap_login: Mapped[str | None]
    imap_password: Mapped[str | None]
    imap_delete: Mapped[int] = mapped_column(default=0)  # 1: what was taken is removed there
    imap_validity: Mapped[int | None]  # UIDVALIDITY (RFC 3501 §2.3.1.1) of the number below
    imap_uid: Mapped[int] = mapped_column(default=0)  # of the last message that was dealt with
    imap_next_at: Mapped[datetime | None]
    imap_looked_at: Mapped[datetime | None]  # without trouble
    imap_tries: Mapped[int] = mapped_column(default=0)  # that failed, since
    imap_problem: Mapped[str] = mapped_column(default="")
    changed_at: Mapped[datetime]


class MailTest(VaultBase):
    """The last test message to oneself and how far it came; one row at most."""

    __tablename__ = "mail_test"
    __table_args__ = (STRICT,)

    id: Mapped[int] = mapped_column(primary_key=True, default=1)
    message_id: Mapped[str]
    began_at: Mapped[datetime]
    steps: Mapped[list[Any]] = mapped_column(Json)  # of sending: [name, state, sentence]
    arrived_at: Mapped[datetime | None]
    answered_at: Mapped[datetime | None]


class PostboxKey(VaultBase):
    """An own certificate for Direct with its key; retired ones still open what was sent to them."""

    __tablename__ = "postbox_key"
    __table_args__ = (STRICT,)

    id: Mapped[int] = mapped_column(primary_key=True)
    certificate: Mapped[bytes]  # DER
    key: Mapped[bytes]  # PKCS #8, DER
    root: Mapped[int]  # 1: the own anchor that stands above the others
    made_at: Mapped[datetime]
    retired_at: Mapped[datetime | None]


class Direction(StrEnum):
    """Whom an anchor vouches for: those we send to, or those we accept from."""

    OUT = "out"
    IN = "in"


class Anchor(VaultBase):
    """A certificate the patient trusts, for one direction, by hand or through a bundle."""

    __tablename__ = "anchor"
    __table_args__ = (
        known("direction", Direction),
        Index("anchor_once", "direction", "fingerprint", "bundle_id", unique=True),
        STRICT,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    direction: Mapped[str]
    fingerprint: Mapped[bytes]  # SHA-256 of the certificate
    certificate: Mapped[bytes]  # DER
    bundle_id: Mapped[int | None] = mapped_column(ForeignKey("bundle.id", ondelete="CASCADE"))
    added_at: Mapped[datetime]


class TrustBundle(VaultBase):
    """A published collection of anchors that is looked at daily."""

    __tablename__ = "bundle"
    __table_args__ = (known("direction", Direction), STRICT)

    id: Mapped[int] = mapped_column(primary_key=True)
    url: Mapped[str]
    direction: Mapped[str]
    signer: Mapped[bytes | None]  # SHA-256 of the certificate that signed the first one
    fetched_at: Mapped[datetime | None]
    next_at: Mapped[datetime]
    changes: Mapped[list[dict[str, Any]]] = mapped_column(Json, default=list)  # newest first
    sentence: Mapped[str | None]  # what went wrong last


class ArrivalKind(StrEnum):
    """What an arrival is, as its bytes say: words, a file, FHIR resources; or that one is void."""

    NOTE = "note"
    FILE = "file"
    RECORDS = "records"
    WITHDRAWAL = "withdrawal"  # the sender takes back what was accepted before


class ArrivalState(StrEnum):
    """waiting -> accepted | rejected -> waiting; waiting | accepted | rejected -> withdrawn.

    What the next one of its sender replaced is withdrawn too, until that one is taken back.
    """

    WAITING = "waiting"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"


class Arrival(VaultBase):
    """Something received, in quarantine until it is accepted. Only `sharing.inbox` writes here."""

    __tablename__ = "arrival"
    __table_args__ = (
        known("kind", ArrivalKind),
        known("state", ArrivalState),
        Index("arrival_state", "state", "received_at"),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    chain: Mapped[str] = mapped_column(index=True)  # id of the first of those that amend another
    recipient_id: Mapped[str] = mapped_column(ForeignKey("recipient.id"), index=True)
    grant_id: Mapped[str | None] = mapped_column(ForeignKey("grant.id"), index=True)
    handle_id: Mapped[str | None]  # by which it came
    way: Mapped[str]  # "link", "api"
    kind: Mapped[str]
    what: Mapped[list[Any]] = mapped_column(Json)  # "note", "file", or the FHIR types in it
    media_type: Mapped[str]  # decided from the bytes
    title: Mapped[str]  # what follows is as the sender said, and nobody checked it
    name: Mapped[str]
    signed: Mapped[str]
    hash: Mapped[bytes]  # SHA-256 of the received bytes
    size: Mapped[int]
    content: Mapped[bytes | None] = mapped_column(deferred=True)  # as received; None: erased
    place: Mapped[int | None] = mapped_column(ForeignKey("connection.id"))  # its records, later
    state: Mapped[str] = mapped_column(default=ArrivalState.WAITING)
    received_at: Mapped[datetime]
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str | None]  # a name
    rule_id: Mapped[int | None]  # the rule that let it in
    replaced_by: Mapped[str | None]  # the arrival that took its place


class ArrivalRule(VaultBase):
    """What a patient lets in without being asked: one kind of thing, of one recipient."""

    __tablename__ = "arrival_rule"
    __table_args__ = (STRICT,)

    id: Mapped[int] = mapped_column(primary_key=True)
    recipient_id: Mapped[str] = mapped_column(ForeignKey("recipient.id"), index=True)
    grant_id: Mapped[str | None]  # of a link: it alone, for another may bear the same name
    what: Mapped[str]  # as in `Arrival.what`
    made_at: Mapped[datetime]
    made_by: Mapped[str]
    ended_at: Mapped[datetime | None]


class LetterState(StrEnum):
    """What became of a mail: its parts wait in the inbox, it was a notice, or it is not trusted."""

    TAKEN = "taken"
    NOTICE = "notice"
    REFUSED = "refused"


class Letter(VaultBase):
    """One mail that came to the patient's Direct address. Only `sharing.letterbox` writes here."""

    __tablename__ = "letter"
    __table_args__ = (
        known("state", LetterState),
        Index("letter_state", "state", "received_at"),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[bytes] = mapped_column(unique=True)  # SHA-256 of the mail with its envelope
    sender: Mapped[str]  # of the envelope; signed for where the state is not "refused"
    recipient: Mapped[str]  # the own address it was sent to
    message_id: Mapped[str]  # "" where it could not be opened
    subject: Mapped[str]
    certificate: Mapped[bytes | None]  # the signer's, DER; trusted where the state is not "refused"
    vouched: Mapped[int] = mapped_column(default=0)  # 1: a provider opened and checked it
    state: Mapped[str]
    reason: Mapped[str]  # why it was refused, or what became of the notice
    arrivals: Mapped[list[Any]] = mapped_column(Json)  # ids: what of it waits or waited
    left_out: Mapped[list[Any]] = mapped_column(Json)  # parts that were not taken: [name, why]
    size: Mapped[int]
    received_at: Mapped[datetime]
    content: Mapped[bytes | None] = mapped_column(deferred=True)  # the mail, where it is not taken
    answers: Mapped[list[Any]] = mapped_column(Json)  # notices that are owed to the sender, in turn
    answered_at: Mapped[datetime | None]  # the last one that went
    answer_at: Mapped[datetime | None] = mapped_column(index=True)  # next try; None: nothing owed
    answer_tries: Mapped[int] = mapped_column(default=0)
    answer_problem: Mapped[str] = mapped_column(default="")


class AuditEntry(VaultBase):
    """One line of the vault's hash-chained log. `actor`: account, recipient or appliance."""

    __tablename__ = "audit_entry"
    __table_args__ = (Index("audit_by_grant", "grant_id", "seq"), STRICT)

    seq: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int]
    at: Mapped[datetime]
    event: Mapped[str]
    actor: Mapped[dict[str, Any]] = mapped_column(Json)
    grant_id: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(Json)
    previous: Mapped[bytes]
    hash: Mapped[bytes]  # HMAC-SHA256 under the vault's audit key


# Records: Core tables, because the importer writes them in bulk and pages read them by index.

record = Table(
    "record",
    VaultBase.metadata,
    Column("pk", Integer, primary_key=True),
    Column(
        "key", Integer, nullable=False
    ),  # 64-bit keyed hash of connection|type|remote id = the local id
    Column("connection", Integer, ForeignKey("connection.id"), nullable=False),
    Column("type", Integer, nullable=False),  # number of the type in fhir.kinds
    Column("remote_id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("hash", LargeBinary, nullable=False),  # of the received bytes
    Column("time", Integer),  # clinically relevant instant, ms; NULL: undated
    Column("time_end", Integer),  # last ms of a partial date or period; NULL: as `time`, or open
    Column("timeline", Integer),  # = time for kinds that belong on the timeline, else NULL
    Column("concept", Integer),  # what it is about: `coding.concept`
    Column("category", Integer, nullable=False),  # bits of fhir.kinds.CATEGORIES
    Column("text", Integer),  # its distinct search text
    Column("value", REAL),
    Column("measure", Integer),  # what the value counts, see fhir.measures; NULL: its body tells
    Column("labels", Integer, nullable=False),  # fhir.labels.Label bits
    Column("flags", Integer, nullable=False),  # fhir.check.Note bits, withdrawn included
    Column("received", Integer, nullable=False),  # ms
    Column("pull", Integer, nullable=False),  # the pull that brought it; see also `seen`
    Column("splices", LargeBinary, nullable=False),  # offsets of id and references
    Column(
        "body", LargeBinary, nullable=False
    ),  # received bytes, zstd with the dictionary its frame names
    sqlite_strict=True,
)
Index("record_key", record.c.key, unique=True)
Index(
    "record_timeline",
    record.c.timeline,
    sqlite_where=record.c.timeline.is_not(None),
)
Index(  # what has come since the last look; grows at its end only, so it costs an import little
    "record_received",
    record.c.received,
    record.c.timeline,
    sqlite_where=record.c.timeline.is_not(None),
)
Index("record_type", record.c.type, record.c.time)
Index(  # all that a drawing of many years reads: no body, see store.points
    "record_concept",
    record.c.concept,
    record.c.time,
    record.c.value,
    record.c.measure,
    record.c.flags,
    record.c.labels,
    record.c.connection,
    sqlite_where=record.c.concept.is_not(None),
)
Index("record_labels", record.c.labels, sqlite_where=record.c.labels != 0)
Index("record_text", record.c.text, record.c.time, sqlite_where=record.c.text.is_not(None))

record_version = Table(  # earlier versions; the current one is in `record`
    "record_version",
    VaultBase.metadata,
    Column("pk", Integer, nullable=False, primary_key=True),
    Column("version", Integer, nullable=False, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
    Column("labels", Integer, nullable=False),
    Column("flags", Integer, nullable=False),
    Column("received", Integer, nullable=False),
    Column("splices", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
seen = Table(  # what a running pull met unchanged, as packed pks: instead of a write per record
    "seen",
    VaultBase.metadata,
    Column("pull", Integer, nullable=False, primary_key=True),
    Column("part", Integer, nullable=False, primary_key=True),
    Column("pks", LargeBinary, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
alias = Table(  # fullUrls of a Bundle that do not name their resource's own id
    "alias",
    VaultBase.metadata,
    Column("connection", Integer, nullable=False, primary_key=True),
    Column("url", Text, nullable=False, primary_key=True),
    Column("key", Integer, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
concept = Table(  # distinct sets of codings
    "concept",
    VaultBase.metadata,
    Column("id", Integer, primary_key=True),
    Column("hash", Integer, nullable=False, unique=True),
    sqlite_strict=True,
)
coding = Table(  # which concepts carry a code
    "coding",
    VaultBase.metadata,
    Column("system", Text, nullable=False, primary_key=True),
    Column("code", Text, nullable=False, primary_key=True),
    Column("concept", Integer, nullable=False, primary_key=True),
    Column("display", Text, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
measure = Table(  # distinct Observations but for number and date: code, unit, range, flag
    "measure",
    VaultBase.metadata,
    Column("id", Integer, primary_key=True),
    Column("hash", Integer, nullable=False, unique=True),
    Column("content", LargeBinary, nullable=False),
    sqlite_strict=True,
)
search_text = Table(  # distinct texts; the words themselves are in the FTS5 table `search`
    "search_text",
    VaultBase.metadata,
    Column("id", Integer, primary_key=True),
    Column("hash", Integer, nullable=False, unique=True),
    sqlite_strict=True,
)
dictionary = Table(
    "dictionary",
    VaultBase.metadata,
    Column("id", Integer, primary_key=True),  # = dictionary id in the zstd frame header
    Column("connection", Integer),
    Column("made", Integer, nullable=False),
    Column("bytes", LargeBinary, nullable=False),
    sqlite_strict=True,
)
counter = Table(  # kept in the same transaction as the records
    "counter",
    VaultBase.metadata,
    Column("connection", Integer, primary_key=True),
    Column("type", Integer, primary_key=True),
    Column("n", Integer, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
attachment = Table(
    "attachment",
    VaultBase.metadata,
    Column("hash", LargeBinary, primary_key=True),  # SHA-256 of the bytes
    Column(
        "media_type", Text, nullable=False
    ),  # as the sender said; what we serve is decided from the bytes
    Column("size", Integer, nullable=False),
    Column("bytes", LargeBinary, nullable=False),
    sqlite_strict=True,
)
attachment_link = Table(  # (record, url as it stands in the record) -> attachment
    "attachment_link",
    VaultBase.metadata,
    Column("record", Integer, nullable=False, primary_key=True),
    Column("url", Text, nullable=False, primary_key=True),
    Column("hash", LargeBinary),  # NULL: not fetched yet or refused
    Column("sentence", Text),  # why it is missing
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
facet = Table(  # what software searches by, in the order of its pages: see sharing.facets
    "facet",
    VaultBase.metadata,
    Column("parameter", Integer, nullable=False, primary_key=True),
    Column("value", Integer, nullable=False, primary_key=True),
    Column("time", Integer, nullable=False, primary_key=True),  # of the record, as it was then
    Column("record", Integer, nullable=False, primary_key=True),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
facet_due = Table(  # records that changed since they were looked at for that
    "facet_due",
    VaultBase.metadata,
    Column("record", Integer, primary_key=True),
    sqlite_strict=True,
)
facet_state = Table(  # one row: up to which record, and by which rules
    "facet_state",
    VaultBase.metadata,
    Column("upto", Integer, nullable=False),
    Column("rules", Integer, nullable=False),
    sqlite_strict=True,
)
FACET_CHANGED_DDL = (
    "CREATE TRIGGER facet_changed AFTER UPDATE OF body, time ON record"
    " BEGIN INSERT OR IGNORE INTO facet_due(record) VALUES (new.pk); END"
)
FACET_GONE_DDL = (  # its pk may be given again
    "CREATE TRIGGER facet_gone AFTER DELETE ON record"
    " BEGIN UPDATE facet_state SET upto = min(upto, old.pk - 1); END"
)
FACET_BEGIN = "INSERT INTO facet_state(upto, rules) VALUES (0, 0)"
ready = Table(  # what leaves, made ready a window of records and a type at a time: sharing.ready
    "ready",
    VaultBase.metadata,
    Column("place", Integer, primary_key=True),
    Column("rules", Integer, nullable=False),
    Column("marks", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    sqlite_strict=True,
)
READY_DDL = (  # whatever it was made of changes: it goes in the same transaction
    (
        "CREATE TRIGGER ready_changed AFTER UPDATE OF key, connection, type, remote_id, time,"
        " time_end, category, splices, body ON record BEGIN DELETE FROM ready"
        f" WHERE place = old.pk / {READY_WINDOW} * {READY_TYPES} + old.type; END"
    ),
    "CREATE TRIGGER ready_gone AFTER DELETE ON record BEGIN DELETE FROM ready; END",
    "CREATE TRIGGER ready_named AFTER INSERT ON alias BEGIN DELETE FROM ready; END",
    (
        "CREATE TRIGGER ready_moved AFTER UPDATE OF base_url ON connection"
        " WHEN new.base_url <> old.base_url BEGIN DELETE FROM ready; END"
    ),
)
entry = Table(  # what a person reads; one or more records are its evidence
    "entry",
    VaultBase.metadata,
    Column("pk", Integer, primary_key=True),  # = of its first record
    Column("section", Integer, nullable=False),  # number of the section in fhir.kinds
    Column(
        "state", Integer, nullable=False
    ),  # 1: a source may list it as current, or nobody has looked yet; 2: no source does
    Column("time", Integer),
    sqlite_strict=True,
)
Index("entry_section", entry.c.section, entry.c.state, entry.c.time)
evidence = Table(  # what an entry has beside its first record; most entries are one record
    "evidence",
    VaultBase.metadata,
    Column("record", Integer, primary_key=True),
    Column("entry", Integer, nullable=False),
    sqlite_strict=True,
)
Index("evidence_entry", evidence.c.entry)
decision = Table(  # the patient's word: two records are about the same thing, or are not
    "decision",
    VaultBase.metadata,
    Column("id", Integer, primary_key=True),
    Column("step", Integer, nullable=False),  # what was said at once, and is undone at once
    Column("one", Integer, nullable=False),  # keys of records: they outlive rebuilds and re-pulls
    Column("other", Integer, nullable=False),
    Column("one_name", Text, nullable=False),  # "Type/remote id": finds it in another vault
    Column("other_name", Text, nullable=False),
    Column("same", Integer, nullable=False),
    Column("by", Text, nullable=False),  # account id
    Column("at", Integer, nullable=False),
    Column("undone", Integer),  # when it was taken back
    sqlite_strict=True,
)
private_mark = (
    Table(  # the patient's own "keep this private", by record; recipients never learn of it
        "private_mark",
        VaultBase.metadata,
        Column("key", Integer, primary_key=True),
        Column("at", Integer, nullable=False),
        sqlite_strict=True,
    )
)
paper = Table(  # what was read in a file that a record carries: derived from its bytes
    "paper",
    VaultBase.metadata,
    Column("id", Integer, primary_key=True),  # = rowid of its words in `paper_search`
    Column("record", Integer, ForeignKey("record.pk", ondelete="CASCADE"), nullable=False),
    Column("place", Integer, nullable=False),  # of the attachment in the record
    Column("hash", LargeBinary, nullable=False),  # SHA-256 of the bytes
    Column("rules", Integer, nullable=False),  # papers.reading.RULES by which it was read
    Column("body", LargeBinary, nullable=False),  # papers.reading.Reading as JSON, zstd
    Column("edition", Text, nullable=False),  # which version of a document it is: JSON, or ""
    sqlite_strict=True,
)
Index("paper_record", paper.c.record, paper.c.place, unique=True)
Index("paper_hash", paper.c.hash)
paper_seen = Table(  # which records were looked through for files, and in which state
    "paper_seen",
    VaultBase.metadata,
    Column("record", Integer, ForeignKey("record.pk", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("files", Integer, nullable=False),  # kept files of it at that time
    Column("rules", Integer, nullable=False),
    sqlite_strict=True,
)

SEARCH_DDL = (
    "CREATE VIRTUAL TABLE search USING fts5(words, content='', contentless_delete=1, "
    "prefix='2 3', tokenize=\"unicode61 remove_diacritics 2\")"
)
VOCABULARY_DDL = "CREATE VIRTUAL TABLE vocabulary USING fts5vocab(search, row)"  # stores nothing
PAPER_SEARCH_DDL = (
    "CREATE VIRTUAL TABLE paper_search USING fts5(words, content='', contentless_delete=1, "
    'tokenize="unicode61 remove_diacritics 2")'
)
PAPER_GONE_DDL = (  # however a row goes, erased with its record or read anew: its words go too
    "CREATE TRIGGER paper_gone AFTER DELETE ON paper"
    " BEGIN DELETE FROM paper_search WHERE rowid = old.id; END"
)

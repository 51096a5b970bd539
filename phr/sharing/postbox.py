"""What a vault keeps of Direct: the own address, its keys, and whom the patient trusts.

Anchors are per patient and direction. Every function runs in the caller's transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from phr import clock
from phr.errors import AddressRefused, InvalidInput, NotFound, TrustError
from phr.http import Answer
from phr.net import clean_host
from phr.sharing.channels import bundles, discovery, identity, trust
from phr.sharing.channels.identity import Identity
from phr.sharing.channels.submission import Server
from phr.sharing.channels.trust import Bound
from phr.store import audit
from phr.store.models import (
    Anchor,
    Delivery,
    DeliveryState,
    Direction,
    MailMode,
    Postbox,
    PostboxKey,
    TrustBundle,
)
from phr.store.vault import Vault

DAILY: Final = timedelta(days=1)
RETRY: Final = timedelta(hours=2)
MOST_CHANGES: Final = 50  # remembered of one bundle
READ_BY_HISP: Final = (
    "Your provider for Direct mail encrypts and decrypts for you: it can read everything you send "
    "and receive this way."
)
READ_BY_NOBODY: Final = (
    "Messages are sealed here for the recipient. The mail servers between see both addresses, the "
    "size and the time, not the content."
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings page asks for; passwords: None leaves the one that is kept."""

    address: str
    mode: MailMode
    smtp_host: str
    smtp_port: int
    smtp_login: str | None = None
    smtp_password: str | None = field(default=None, repr=False)
    imap_host: str | None = None
    imap_port: int | None = None
    imap_login: str | None = None
    imap_password: str | None = field(default=None, repr=False)
    imap_delete: bool = False  # remove there what was taken in
    bound: Bound = Bound.ADDRESS


# ------------------------------------------------------------------------------------ the address


def get(session: Session) -> Postbox | None:
    """Return the patient's postbox, or None where Direct was not set up."""
    return session.get(Postbox, 1)


def who_reads(mode: str) -> str:
    """Say who can read what goes in this mode, in a plain sentence."""
    return READ_BY_HISP if mode == MailMode.HISP else READ_BY_NOBODY


def set_up(
    session: Session, vault: Vault, wanted: Wanted, actor: Mapping[str, Any], *, now: datetime
) -> Postbox:
    """Keep the settings; in STA mode make certificates where the address has none yet.

    Raises InvalidInput. A changed address retires the certificates of the one before.
    """
    check(wanted)
    box = get(session) or Postbox(id=1)
    renamed = box.address != wanted.address or box.bound != wanted.bound
    for name in ("address", "mode", "bound", "smtp_host", "smtp_port", "smtp_login"):
        setattr(box, name, getattr(wanted, name))
    if (box.imap_host, box.imap_login) != (wanted.imap_host, wanted.imap_login):
        box.imap_validity, box.imap_uid = None, 0  # another mailbox has other numbers
    box.imap_next_at, box.imap_looked_at, box.imap_tries, box.imap_problem = None, None, 0, ""
    for name in ("imap_host", "imap_port", "imap_login"):
        setattr(box, name, getattr(wanted, name))
    box.imap_delete = int(wanted.imap_delete)
    box.smtp_password = _password(wanted.smtp_login, wanted.smtp_password, box.smtp_password)
    box.imap_password = _password(wanted.imap_login, wanted.imap_password, box.imap_password)
    box.changed_at = now
    session.add(box)
    session.flush()
    if wanted.mode is MailMode.STA and (renamed or not current(session)):
        rotate(session, vault, actor, now=now)
    audit.append(session, vault, "direct.set_up", actor, mode=str(wanted.mode))
    return box


def check(wanted: Wanted) -> None:
    """Raise InvalidInput with the first thing that is wrong with the settings."""
    if sentence := discovery.problem(wanted.address):
        raise InvalidInput(sentence)
    hosts = [(wanted.smtp_host, wanted.smtp_port)]
    if wanted.imap_host is not None:
        hosts.append((wanted.imap_host, wanted.imap_port or 0))
    for host, port in hosts:
        try:
            odd = clean_host(host) != host.lower()
        except AddressRefused:
            odd = True
        if odd or not 0 < port < 65536:
            raise InvalidInput("Please give each mail server as a name and a port.")
    if wanted.mode is MailMode.HISP and not wanted.smtp_login:
        raise InvalidInput("A provider for Direct mail wants a name and a password to send.")
    if wanted.imap_host is not None and not wanted.imap_login:
        raise InvalidInput("A mailbox wants a name and a password.")


def _password(login: str | None, given: str | None, kept: str | None) -> str | None:
    return None if not login else given or kept


def server(box: Postbox) -> Server:
    """Return where mail is handed over. In HISP mode never without verified TLS."""
    return Server(
        box.smtp_host,
        box.smtp_port,
        box.smtp_login,
        box.smtp_password,
        encrypt=box.mode == MailMode.HISP,
    )


# --------------------------------------------------------------------------------- own certificates


def rotate(session: Session, vault: Vault, actor: Mapping[str, Any], *, now: datetime) -> Identity:
    """Make a new certificate with a new key, below the own root; retire the one before.

    The root is made at the first time. Raises NotFound where no address is set up.
    """
    box = get(session)
    if box is None:
        raise NotFound
    above = next((each for each in _kept(session, root=True)), None)
    if above is None or above.certificate.not_valid_after_utc < now + identity.LEAF_FOR:
        above = identity.root(box.address, now=now)
        _keep(session, above, root=True, now=now)
    for row in session.scalars(
        select(PostboxKey).where(PostboxKey.root == 0, PostboxKey.retired_at.is_(None))
    ):
        row.retired_at = now
    made = identity.issue(above, box.address, Bound(box.bound), now=now)
    _keep(session, made, root=False, now=now)
    audit.append(session, vault, "direct.certificate_made", actor)
    return made


def _keep(session: Session, made: Identity, *, root: bool, now: datetime) -> None:
    secret = made.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    certificate = made.certificate.public_bytes(Encoding.DER)
    session.add(PostboxKey(certificate=certificate, key=secret, root=int(root), made_at=now))
    session.flush()


def _kept(session: Session, *, root: bool) -> list[Identity]:
    rows = session.scalars(
        select(PostboxKey).where(PostboxKey.root == int(root)).order_by(PostboxKey.id.desc())
    )
    return [_identity(row) for row in rows]


def _identity(row: PostboxKey) -> Identity:
    key = load_der_private_key(row.key, None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TrustError
    return Identity(x509.load_der_x509_certificate(row.certificate), key)


def identities(session: Session) -> list[Identity]:
    """Return every own certificate with its key, newest first: what arrives may be for any."""
    return _kept(session, root=False)


def current(session: Session) -> Identity | None:
    """Return the certificate that signs now, or None."""
    row = session.scalars(
        select(PostboxKey).where(PostboxKey.root == 0, PostboxKey.retired_at.is_(None))
    ).first()
    return None if row is None else _identity(row)


def chain(session: Session) -> tuple[x509.Certificate, ...]:
    """Return the own roots, newest first: what correspondents take as an anchor."""
    return tuple(each.certificate for each in _kept(session, root=True))


def is_due(certificate: x509.Certificate, *, now: datetime) -> bool:
    """Say whether an own certificate should be rotated soon."""
    return now >= certificate.not_valid_after_utc - identity.RENEW_BEFORE


# --------------------------------------------------------------------------------- whom to trust


def anchors(session: Session, direction: Direction) -> list[x509.Certificate]:
    """Return the anchors of a direction, chosen by hand or through bundles, each once."""
    rows = session.scalars(
        select(Anchor.certificate).where(Anchor.direction == direction).order_by(Anchor.id)
    )
    return [x509.load_der_x509_certificate(each) for each in dict.fromkeys(rows)]


def add_anchor(
    session: Session,
    vault: Vault,
    data: bytes,
    direction: Direction,
    actor: Mapping[str, Any],
    *,
    now: datetime,
) -> x509.Certificate:
    """Trust one certificate (DER or PEM): a root, an intermediate, or a correspondent's own.

    Raises InvalidInput where it is not exactly one, has expired, or is weakly signed itself.
    """
    found = trust.read_any(data)
    if len(found) != 1:
        raise InvalidInput("Please choose a file with exactly one certificate.")
    certificate = found[0]
    if certificate.not_valid_after_utc < now:
        raise InvalidInput("This certificate has expired.")
    _trust(session, certificate, direction, None, now)
    audit.append(session, vault, "direct.anchor_added", actor, direction=str(direction), by="hand")
    return certificate


def remove_anchor(session: Session, vault: Vault, anchor_id: int, actor: Mapping[str, Any]) -> None:
    """Trust an anchor no more. Those of a bundle go with the bundle. Raises NotFound."""
    row = session.get(Anchor, anchor_id)
    if row is None or row.bundle_id is not None:
        raise NotFound
    session.delete(row)
    audit.append(session, vault, "direct.anchor_removed", actor, direction=row.direction)


def _trust(
    session: Session,
    certificate: x509.Certificate,
    direction: Direction,
    bundle_id: int | None,
    now: datetime,
) -> None:
    fingerprint = certificate.fingerprint(hashes.SHA256())
    known = session.scalars(
        select(Anchor.id).where(
            Anchor.direction == direction,
            Anchor.fingerprint == fingerprint,
            Anchor.bundle_id.is_(None) if bundle_id is None else Anchor.bundle_id == bundle_id,
        )
    ).first()
    if known is None:
        session.add(
            Anchor(
                direction=direction,
                fingerprint=fingerprint,
                certificate=certificate.public_bytes(Encoding.DER),
                bundle_id=bundle_id,
                added_at=now,
            )
        )
        session.flush()


# -------------------------------------------------------------------------------------- bundles


def add_bundle(
    session: Session,
    vault: Vault,
    url: str,
    direction: Direction,
    actor: Mapping[str, Any],
    *,
    now: datetime,
) -> TrustBundle:
    """Follow a published bundle from now on; it is fetched when it is due (at once)."""
    row = TrustBundle(url=url, direction=direction, next_at=now, changes=[])
    session.add(row)
    session.flush()
    audit.append(session, vault, "direct.bundle_added", actor, direction=str(direction))
    return row


def remove_bundle(session: Session, vault: Vault, bundle_id: int, actor: Mapping[str, Any]) -> None:
    """Follow a bundle no more, and trust what only it named no more. Raises NotFound."""
    row = session.get(TrustBundle, bundle_id)
    if row is None:
        raise NotFound
    session.execute(delete(Anchor).where(Anchor.bundle_id == bundle_id))
    session.delete(row)
    audit.append(session, vault, "direct.bundle_removed", actor, direction=row.direction)


def bundles_due(session: Session, *, now: datetime) -> list[TrustBundle]:
    """Return the bundles that are to be fetched again."""
    return list(session.scalars(select(TrustBundle).where(TrustBundle.next_at <= now)))


def bundle_failed(session: Session, bundle_id: int, sentence: str, *, now: datetime) -> None:
    """Write down that a bundle could not be fetched; what was trusted stays."""
    row = session.get(TrustBundle, bundle_id)
    if row is not None:
        row.sentence, row.next_at = sentence, now + RETRY


def take_bundle(
    session: Session, vault: Vault, bundle_id: int, answer: Answer, *, now: datetime
) -> tuple[Sequence[x509.Certificate], Sequence[x509.Certificate]]:
    """Put a fetched bundle in place of what was trusted through it; return what came and went.

    The signer of the first one is remembered: another one, or none, changes nothing. Raises
    TrustError, NotFound.
    """
    row = session.get(TrustBundle, bundle_id)
    if row is None:
        raise NotFound
    if answer.status != 200:
        raise TrustError(f"The bundle was not given: the server answered {answer.status}.")
    bundle = bundles.read(answer.body)
    signer = None if bundle.signer is None else bundle.signer.fingerprint(hashes.SHA256())
    if row.fetched_at is not None and row.signer != signer:
        raise TrustError("This bundle is signed by somebody else than before. Nothing was changed.")
    rows = session.scalars(select(Anchor).where(Anchor.bundle_id == bundle_id)).all()
    before = [x509.load_der_x509_certificate(each.certificate) for each in rows]
    came, went = bundles.changes(before, bundle.anchors)
    for each in rows:
        if x509.load_der_x509_certificate(each.certificate) in went:
            session.delete(each)
    for certificate in came:
        _trust(session, certificate, Direction(row.direction), bundle_id, now)
    if came or went:
        line = {"at": clock.instant(now), "came": _names(came), "went": _names(went)}
        row.changes = [line, *row.changes][:MOST_CHANGES]
        audit.append(
            session,
            vault,
            "direct.bundle_changed",
            {"kind": "appliance"},
            came=len(came),
            went=len(went),
        )
    row.signer, row.fetched_at, row.next_at, row.sentence = signer, now, now + DAILY, None
    return came, went


def _names(certificates: Sequence[x509.Certificate]) -> list[dict[str, str]]:
    """Return how people see certificates: the subject's words and the fingerprint."""
    return [
        {"name": each.subject.rfc4514_string()[:200], "fingerprint": identity.fingerprint(each)}
        for each in certificates
    ]


# ------------------------------------------------------------------------------ what is answered


def settle(
    session: Session,
    vault: Vault,
    *,
    message_id: str,
    recipient: str,
    disposition: str,
    now: datetime,
) -> bool:
    """Note what a recipient's server said of a message of ours; False where it is none of ours.

    Correlated by the message's id and the recipient. Failed stays failed; a later word of having
    been dispatched stands over one of having been processed.
    """
    delivery = session.scalars(
        select(Delivery).where(Delivery.message_id == message_id, Delivery.channel == "direct")
    ).first()
    if delivery is None or delivery.address.lower() != recipient.lower():
        return False
    if delivery.answer in {"failed", "dispatched"} or delivery.answer == disposition:
        return True  # said already: a repeated or later notice changes nothing
    delivery.answer, delivery.answered_at = disposition, now
    if disposition == "failed":
        delivery.state = DeliveryState.FAILED
        delivery.sentence = "The recipient's server says that it was not delivered."
    elif delivery.state == DeliveryState.UNCERTAIN:
        delivery.state, delivery.sentence = DeliveryState.SENT, None  # it did arrive
    audit.append(
        session,
        vault,
        f"delivery.{disposition}",
        {"kind": "appliance"},
        grant_id=delivery.grant_id,
        channel="direct",
    )
    return True

"""Fetching mail from a mailbox at a provider: look -> put aside sealed -> remember how far.

Each message is taken once, by its number there; it then waits with what the listener took in, and
`phr.receive` judges both. While a vault is sealed nobody can sign in: mail waits at the provider.
"""

import ssl
from datetime import datetime, timedelta
from typing import Final

from phr.errors import Conflict, InvalidInput, MailboxFailed
from phr.http import Http
from phr.sharing import letterbox, postbox
from phr.sharing.channels import imap, message
from phr.sharing.channels.imap import Account, Box
from phr.sharing.channels.mime import MOST
from phr.sharing.letterbox import Outcome
from phr.store import arrived
from phr.store.arrived import Mail
from phr.store.models import LetterState, MailMode, Postbox
from phr.store.vault import Vault

EVERY: Final = timedelta(minutes=3)
LONGEST_WAIT: Final = timedelta(hours=6)  # between tries: a wrong password must not lock an account
MOST_AT_ONCE: Final = 50  # messages of one look
TOO_LARGE: Final = "This message is larger than 20 MiB. It was left in the provider's mailbox."


def is_due(vault: Vault, *, now: datetime) -> bool:
    """Say whether a mailbox is to be looked into."""
    with vault.read() as session:
        box = postbox.get(session)
        return (
            box is not None
            and box.imap_host is not None
            and (box.imap_next_at is None or box.imap_next_at <= now)
        )


def run_due(vault: Vault, *, http: Http, now: datetime) -> int:
    """Look into a vault's mailbox if it is time, and return how many messages came.

    What goes wrong becomes a sentence with the settings, and the next look comes later each time.
    """
    if not is_due(vault, now=now):
        return 0
    try:
        return fetch(vault, http=http, now=now)
    except MailboxFailed:
        return 0  # it is written down


def look(vault: Vault, *, http: Http, now: datetime) -> str:
    """Look at once, because somebody asks, and say in words what came. Raises MailboxFailed."""
    count = fetch(vault, http=http, now=now)
    if count == 0:
        return "The mailbox was read. Nothing new was in it."
    return f"{count} message{'' if count == 1 else 's'} came from the mailbox."


def fetch(
    vault: Vault,
    *,
    http: Http,
    now: datetime,
    tls: ssl.SSLContext | None = None,
) -> int:
    """Take what is new in a vault's mailbox and return how many messages that were.

    `tls` is for private issuers of the server's certificate. Raises MailboxFailed, after writing it
    down; InvalidInput where no mailbox is set.
    """
    with vault.read() as session:
        box = postbox.get(session)
    if box is None or box.imap_host is None:
        raise InvalidInput("No mailbox is set for this record.")
    account = Account(
        box.imap_host, box.imap_port or imap.PORT, box.imap_login or "", box.imap_password or ""
    )
    try:
        with imap.opened(
            account, guard=http.guard, tls=tls, changing=bool(box.imap_delete)
        ) as there:
            count, is_all = _taken(vault, box, there, now)
    except MailboxFailed as problem:
        with vault.write() as session:
            held = postbox.get(session)
            if held is not None:
                held.imap_tries += 1
                held.imap_problem = problem.sentence
                held.imap_next_at = now + min(EVERY * 2 ** min(held.imap_tries, 10), LONGEST_WAIT)
        raise
    with vault.write() as session:
        held = postbox.get(session)
        if held is not None:
            held.imap_tries, held.imap_problem, held.imap_looked_at = 0, "", now
            held.imap_next_at = now + EVERY if is_all else now
    return count


def _taken(vault: Vault, box: Postbox, there: Box, now: datetime) -> tuple[int, bool]:
    """Take new messages, the oldest first; return how many, and whether that were all."""
    found = there.after((box.imap_uid or 0) if there.validity == box.imap_validity else 0)
    for number, (uid, size) in enumerate(found[:MOST_AT_ONCE]):
        try:
            is_here = _take(vault, box, there, (uid, size), now)
        except Conflict:  # too much waits to be judged: the rest stays where it is
            return number, True
        _remember(vault, there.validity, uid)
        if is_here and box.imap_delete:
            there.remove(uid)
    return min(len(found), MOST_AT_ONCE), len(found) <= MOST_AT_ONCE


def _take(vault: Vault, box: Postbox, there: Box, one: tuple[int, int], now: datetime) -> bool:
    """Put one message aside, sealed; False where it is not taken.

    A crash behind this takes it again, and it is recognised by its bytes.
    """
    uid, size = one
    is_small = size <= MOST
    raw = there.fetch(uid, only_head=not is_small)
    if raw is None:
        return False  # somebody removed it meanwhile
    is_vouched = box.mode == MailMode.HISP
    mail = Mail(message.return_path(raw), (box.address,), now, raw, vouched=is_vouched)
    if is_small:
        arrived.put_aside_here(vault, mail)
        return True
    with vault.write() as session:
        if letterbox.known(session, mail) is None:
            outcome = Outcome(LetterState.REFUSED, TOO_LARGE)
            letterbox.keep(session, vault, mail, box.address, outcome, now=now)
    return False


def _remember(vault: Vault, validity: int, uid: int) -> None:
    with vault.write() as session:
        box = postbox.get(session)
        if box is not None:
            box.imap_validity, box.imap_uid = validity, uid

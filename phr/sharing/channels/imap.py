"""Reading a mailbox at a provider: IMAP4rev1 over TLS (RFC 3501, RFC 8314), within limits.

The certificate is checked and the address guard asked. What was read is not even marked as read;
nothing is removed but by `Box.remove`. What the messages are worth: `phr.receive`.
"""

import contextlib
import imaplib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from phr.errors import MailboxFailed, NetError
from phr.net import Guard
from phr.sharing.channels.mime import MOST

PORT: Final = 993  # TLS from the first byte (RFC 8314 §3.2)
SECONDS: Final = 30.0  # for each answer
LONGEST: Final = 120.0  # for one connection: then it is cut
_ROOM: Final = 2 << 20  # bytes of an answer beside one message: many numbers
_FETCHED: Final = re.compile(
    rb"\bUID (\d+)\b.*?\bRFC822\.SIZE (\d+)|\bRFC822\.SIZE (\d+).*?\bUID (\d+)\b"
)


@dataclass(frozen=True, slots=True)
class Account:
    """A mailbox at a provider."""

    host: str
    port: int
    login: str
    password: str = field(repr=False)


class _Bounded(imaplib.IMAP4):
    """An IMAP client over TLS whose connection is guarded, and whose answers are bounded."""

    def __init__(self, account: Account, guard: Guard, tls: ssl.SSLContext | None) -> None:
        self._guard, self._tls = guard, tls or ssl.create_default_context()
        self._left = _ROOM
        super().__init__(account.host, account.port, SECONDS)

    def _create_socket(self, timeout: float | None) -> ssl.SSLSocket:
        plain = self._guard.dial(self.host, self.port, timeout or SECONDS)
        plain.settimeout(SECONDS)
        try:
            return self._tls.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise

    def allow(self, size: int) -> None:
        """Let the next answer have so many bytes."""
        self._left = size

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise self.abort("the answer is too large")

    def read(self, size: int) -> bytes:
        self._spend(size)
        return super().read(size)

    def readline(self) -> bytes:
        line = super().readline()
        self._spend(len(line))
        return line


class Box:
    """An open mailbox. `validity` is its UIDVALIDITY: another one, and every number is new."""

    def __init__(self, client: _Bounded, validity: int) -> None:
        """Take a client that has selected the mailbox."""
        self._client = client
        self.validity = validity

    def after(self, last: int) -> list[tuple[int, int]]:
        """Return (UID, octets) of the messages with a higher number, in order (RFC 3501 §2.3.1)."""
        answered = self._asked("FETCH", f"{last + 1}:*", "(UID RFC822.SIZE)", room=_ROOM)
        found: dict[int, int] = {}
        for line in answered:
            match = _FETCHED.search(line) if isinstance(line, bytes) else None
            if match is not None:
                uid, size = match.group(1) or match.group(4), match.group(2) or match.group(3)
                found[int(uid)] = int(size)
        # "n:*" also gives the last message where none is as high; numbers have 32 bits.
        return sorted((uid, size) for uid, size in found.items() if last < uid < 1 << 32)

    def fetch(self, uid: int, *, only_head: bool = False) -> bytes | None:
        """Return a message, or its header fields, as it is; None when it has gone meanwhile."""
        what = "(BODY.PEEK[HEADER])" if only_head else "(BODY.PEEK[])"
        for each in self._asked("FETCH", str(uid), what, room=MOST + _ROOM):
            if isinstance(each, tuple) and isinstance(each[1], bytes):
                return each[1]
        return None

    def remove(self, uid: int) -> None:
        """Remove one message, and no other that somebody marked for removal (RFC 4315 §2.1)."""
        self._asked("STORE", str(uid), "+FLAGS.SILENT (\\Deleted)", room=_ROOM)
        if "UIDPLUS" in self._client.capabilities:
            self._asked("EXPUNGE", str(uid), room=_ROOM)

    def _asked(self, *command: str, room: int) -> list[Any]:
        self._client.allow(room)
        status, answered = self._client.uid(*command)
        if status != "OK":
            raise MailboxFailed
        return answered


@contextlib.contextmanager
def opened(
    account: Account, *, guard: Guard, tls: ssl.SSLContext | None = None, changing: bool = False
) -> Iterator[Box]:
    """Sign in and open the inbox, read-only unless `changing`; everything is over in two minutes.

    Raises MailboxFailed with a sentence for whatever goes wrong.
    """
    client: _Bounded | None = None
    end: threading.Timer | None = None
    try:
        client = _Bounded(account, guard, tls)
        end = threading.Timer(LONGEST, _cut, (client.sock,))
        end.daemon = True
        end.start()
        _sign_in(client, account)
        yield Box(client, _select(client, changing=changing))
        with contextlib.suppress(imaplib.IMAP4.error, OSError):
            client.logout()
    except ssl.SSLCertVerificationError as error:
        raise MailboxFailed(
            "The mailbox's server does not prove that it is who it says."
        ) from error
    except (imaplib.IMAP4.error, OSError, ValueError, MemoryError) as error:
        raise MailboxFailed from error
    except NetError as error:
        raise MailboxFailed(error.sentence) from error
    finally:
        if end is not None:
            end.cancel()
        if client is not None:
            with contextlib.suppress(OSError):
                client.shutdown()


def _cut(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(line, socket.SHUT_RDWR)  # beneath TLS: whoever waits, wakes


def _sign_in(client: _Bounded, account: Account) -> None:
    """Give name and password by SASL PLAIN: LOGIN cannot carry every letter (RFC 4616)."""
    said = f"\0{account.login}\0{account.password}".encode()
    client.allow(_ROOM)
    try:
        if "AUTH=PLAIN" in client.capabilities:
            client.authenticate("PLAIN", lambda _: said)
        else:
            client.login(account.login, account.password)
    except imaplib.IMAP4.abort:
        raise
    except imaplib.IMAP4.error as error:
        raise MailboxFailed("The mailbox did not take the name and password.") from error
    _, offered = client.capability()  # what is offered changes with signing in (RFC 3501 §6.1.1)
    client.capabilities = tuple(
        bytes(offered[-1] or b"").decode("ascii", "replace").upper().split()
    )


def _select(client: _Bounded, *, changing: bool) -> int:
    client.allow(_ROOM)
    status, _ = client.select("INBOX", readonly=not changing)
    _, said = client.response("UIDVALIDITY")
    if status != "OK" or not said or not isinstance(said[0], bytes):
        raise MailboxFailed
    return int(said[0])

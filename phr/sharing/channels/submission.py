"""Handing one ready message to a mail server (RFC 5321), so that it can be stopped to the last.

The final dot is the point of no return: it is sent inside of `point`, which may say that it is
over. Not here: what is in a message, or to whom it may go.
"""

import base64
import contextlib
import re
import smtplib
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from phr.errors import DeliveryFailed, DeliveryUncertain, NetError
from phr.net import Guard

SECONDS: Final = 30.0  # for each answer
CONNECT: Final = 10.0
AFTER_DOT: Final = 120.0  # a server may scan before it answers (RFC 5321 §4.5.3.2.6 grants 600 s)
CHUNK: Final = 64 << 10
SIGNED_IN: Final = 235  # RFC 4954 §6
LONGEST_LINE: Final = 998  # octets (RFC 5322 §2.1.1)

Point = Callable[[Callable[[], None]], AbstractContextManager[Any]]  # takes what breaks it off


@dataclass(frozen=True, slots=True)
class Server:
    """A mail server; `encrypt`: never without TLS. With a login it is never without, either."""

    host: str
    port: int
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    encrypt: bool = True


class _Guarded(smtplib.SMTP):
    """An SMTP client whose connection goes through the address guard."""

    def __init__(self, server: Server, guard: Guard) -> None:
        self._guard = guard
        super().__init__(timeout=CONNECT, local_hostname="homeport.invalid")  # no name of ours
        self._host = server.host  # what starttls checks the name by
        self.connect(server.host, server.port)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return self._guard.dial(host, port, timeout)


def hand_over(
    raw: bytes,
    *,
    sender: str,
    recipient: str,
    server: Server,
    guard: Guard,
    tls: ssl.SSLContext | None = None,
    point: Point = nullcontext,
) -> str:
    """Give a message to a mail server for one recipient and return its words of acceptance.

    Raises DeliveryFailed (permanent where the server says so), DeliveryUncertain when no answer
    came after the final dot, and whatever `point` raises; then the dot was not sent.
    """
    data = _ready(raw)
    with _connected(server, guard, tls) as client:
        _asked(client.mail(sender, _options(client, len(data))))
        _asked(client.rcpt(recipient))
        _asked(client.docmd("DATA"), 354)
        for start in range(0, len(data), CHUNK):
            client.send(data[start : start + CHUNK])
        with point(partial(_break_off, client)):
            return _finished(client)


def _break_off(client: smtplib.SMTP) -> None:
    """Break a connection off from another thread; what has not left this machine never does."""
    if client.sock is not None:
        with contextlib.suppress(OSError):
            linger = struct.pack("=ii", 1, 0)  # closing resets and empties the queue (socket(7))
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            socket.socket.shutdown(
                client.sock, socket.SHUT_RDWR
            )  # beneath TLS: whoever waits, wakes


def _ready(raw: bytes) -> bytes:
    """Return a message as it goes over the wire: CRLF only, doubled dots (RFC 5321 §4.5.2).

    A lone CR or LF, or an overlong line, would be read differently by different servers.
    """
    if re.search(rb"(?<!\r)\n|\r(?!\n)|\0", raw) or not raw.endswith(b"\r\n"):
        raise DeliveryFailed("The message has line ends that mail does not allow.", permanent=True)
    if any(len(line) > LONGEST_LINE for line in raw.split(b"\r\n")):
        raise DeliveryFailed("The message has lines that mail does not allow.", permanent=True)
    return re.sub(rb"(?m)^\.", b"..", raw)


@contextlib.contextmanager
def _connected(server: Server, guard: Guard, tls: ssl.SSLContext | None) -> Iterator[smtplib.SMTP]:
    """Yield a client that has said hello; its errors become sentences. Closed at once at the end.

    Without QUIT after a failure: a server that has not seen the final dot drops the message.
    """
    client: smtplib.SMTP | None = None
    try:
        client = _Guarded(server, guard)
        if client.sock is not None:
            client.sock.settimeout(SECONDS)
        client.ehlo_or_helo_if_needed()
        _secure(client, server, tls)
        yield client
        with contextlib.suppress(smtplib.SMTPException, OSError):
            client.quit()
    except smtplib.SMTPAuthenticationError as error:
        raise DeliveryFailed("The mail server did not take the name and password.") from error
    except (smtplib.SMTPException, OSError, NetError, ValueError) as error:
        sentence = error.sentence if isinstance(error, NetError) else None
        raise DeliveryFailed(sentence or "The mail server could not be reached.") from error
    finally:
        if client is not None:
            client.close()


def _secure(client: smtplib.SMTP, server: Server, tls: ssl.SSLContext | None) -> None:
    """Turn on TLS where it is offered, insist on it where it is asked for, and sign in."""
    demanded = server.encrypt or server.login is not None
    if client.has_extn("starttls"):
        # Without a demand the message is sealed itself, and any certificate is better than none.
        context = tls or (ssl.create_default_context() if demanded else _unchecked())
        client.starttls(context=context)
        client.ehlo()
    elif demanded:
        raise DeliveryFailed("The mail server offers no encryption (STARTTLS).")
    if server.login is not None:
        _sign_in(client, server.login, server.password or "")


def _sign_in(client: smtplib.SMTP, login: str, password: str) -> None:
    """Give name and password, by PLAIN where it is offered: it carries every letter (RFC 4616)."""
    if "PLAIN" not in client.esmtp_features.get("auth", "").upper().split():
        client.login(login, password)
        return
    said = base64.b64encode(f"\0{login}\0{password}".encode()).decode("ascii")
    code, answer = client.docmd("AUTH", f"PLAIN {said}")
    if code != SIGNED_IN:
        raise smtplib.SMTPAuthenticationError(code, answer)


def _unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _options(client: smtplib.SMTP, size: int) -> list[str]:
    return [f"size={size}"] if client.has_extn("size") else []


def _asked(answer: tuple[int, bytes], *wanted: int) -> None:
    code, said = answer
    if code in (wanted or (250, 251)):
        return
    words = _words(said)
    raise DeliveryFailed(f"The mail server refused it: {code} {words}", permanent=500 <= code < 600)


def _words(said: bytes) -> str:
    """Return a server's words, short and plain: they are shown and are a stranger's."""
    text = said.decode("ascii", "replace").replace("\n", " ")
    return "".join(each if each.isprintable() else " " for each in text)[:200].strip()


def _finished(client: smtplib.SMTP) -> str:
    """Send the final dot and wait for the answer, without which nothing is certain."""
    try:
        if client.sock is not None:
            client.sock.settimeout(AFTER_DOT)
        client.send(b".\r\n")
        code, said = client.getreply()
    except (smtplib.SMTPException, OSError) as error:
        raise DeliveryUncertain from error
    _asked((code, said))
    return _words(said)

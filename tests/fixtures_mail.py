"""A house that takes Direct mail, and correspondents who write to it."""

import atexit
import functools
import shutil
import smtplib
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509

from phr import clock, listener, net, receive
from phr.http import Http
from phr.sharing import inbox, letterbox, postbox
from phr.sharing.channels import message
from phr.sharing.channels.message import Attachment, Letter
from phr.sharing.channels.smime import Own
from phr.sharing.postbox import Wanted
from phr.store import arrived, audit
from phr.store.models import Account, Arrival, ArrivalState, Direction, LetterState, MailMode
from phr.store.models import Letter as Line
from phr.store.vault import Vault
from tests.fixtures_direct import Authority, der, key
from tests.fixtures_store import Home

OWN = "ada@home.example"
DOCTOR = "pell@clinic.example"
TEXT = "Please read the attached results."


@dataclass
class Correspondent:
    """Somebody with a certificate; `number` is that of the key."""

    address: str = DOCTOR
    number: int = 21
    issuer: Authority = field(default_factory=lambda: Authority("Clinic root", 1021))
    certificate: x509.Certificate | None = None

    @property
    def own(self) -> Own:
        if self.certificate is None:
            self.certificate = self.issuer.issue(address=self.address, number=self.number)
        return self.certificate, key(self.number, 2048)


class Outpost:
    """A mail server of somebody else: takes everything, or refuses with one answer."""

    def __init__(self, answer: bytes = b"250 taken\r\n") -> None:
        self.answer = answer
        self.mails: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection, connection.makefile("rwb") as lines:
                    self._talk(lines)

    def _talk(self, lines: "socket.SocketIO") -> None:
        def say(text: bytes) -> None:
            lines.write(text)
            lines.flush()

        say(b"220 outpost\r\n")
        for line in lines:
            if line.upper().startswith(b"DATA"):
                say(b"354 go on\r\n")
                got = []
                for part in lines:
                    if part == b".\r\n":
                        break
                    got.append(part[1:] if part.startswith(b"..") else part)
                if self.answer.startswith(b"250"):
                    self.mails.append(b"".join(got))
                say(self.answer)
            elif line.upper().startswith(b"QUIT"):
                say(b"221 bye\r\n")
                return
            else:
                say(b"250 ok\r\n")

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


class Mailroom:
    """Ada's house with a Direct address, a doctor she accepts mail from, and a listener."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.account = home.account()
        self.patient = home.patient(self.account, by_itself=True)
        self._begin()
        for direction in Direction:
            self.accept(self.doctor.issuer.certificate, direction)
        arrived.route(home.house, self.patient, [OWN])

    @classmethod
    def again(cls, home: Home) -> "Mailroom":
        """Return the room of a house that has one already."""
        room = cls.__new__(cls)
        room.home = home
        (room.patient,) = home.vaults.open_by_themselves()
        with home.house.read() as session:
            room.account = session.query(Account).one().id
        room._begin()
        return room

    def _begin(self) -> None:
        self.outpost = Outpost()
        self.http = Http(net.Guard([f"127.0.0.1:{self.outpost.port}"]))
        self.doctor = Correspondent()
        with self.vault.write() as session:
            postbox.set_up(
                session,
                self.vault,
                Wanted(OWN, MailMode.STA, "127.0.0.1", self.outpost.port),
                audit.APPLIANCE,
                now=clock.now(),
            )
        self.listener = listener.start(("127.0.0.1", 0), self.home.house, self.home.vaults)

    @property
    def vault(self) -> Vault:
        return self.home.vaults.get(self.patient)

    def close(self) -> None:
        self.listener.stop()
        self.outpost.close()
        self.http.close()

    def accept(self, certificate: x509.Certificate, direction: Direction = Direction.IN) -> None:
        with self.vault.write() as session:
            postbox.add_anchor(
                session, self.vault, der(certificate), direction, audit.APPLIANCE, now=clock.now()
            )

    def certificate(self) -> x509.Certificate:
        """Return what a correspondent encrypts for."""
        with self.vault.read() as session:
            return postbox.identities(session)[0].certificate

    def keys(self) -> list[Own]:
        with self.vault.read() as session:
            return [(each.certificate, each.key) for each in postbox.identities(session)]

    def written(
        self,
        *files: tuple[str, str, bytes],
        by: Correspondent | None = None,
        text: str = TEXT,
        number: int = 1,
        asks: bool = False,
        sender: str | None = None,
        to: str = OWN,
        subject: str = "Results",
    ) -> bytes:
        """Return a sealed mail with files (name, media type, bytes)."""
        by = by or self.doctor
        letter = Letter(
            sender=sender or by.address,
            recipient=to,
            message_id=message.message_id("theirs", number, "clinic.example"),
            date=clock.now(),
            subject=subject,
            text=text,
            attachments=tuple(Attachment(*each) for each in files),
            asks_dispatched=asks,
        )
        return self.sealed(message.compose(letter), by=by, number=number)

    def sealed(self, inner: bytes, *, by: Correspondent | None = None, number: int = 1) -> bytes:
        by = by or self.doctor
        return message.seal(
            inner,
            sender=by.address,
            recipient=OWN,
            message_id=message.message_id("theirs", number, "clinic.example"),
            date=clock.now(),
            own=by.own,
            recipients=[self.certificate()],
        )

    def post(self, raw: bytes, *, sender: str = DOCTOR, to: str = OWN) -> None:
        """Hand a mail over by SMTP, as another server does."""
        with smtplib.SMTP("127.0.0.1", self.listener.port, timeout=20) as client:
            client.sendmail(sender, [to], raw)

    def look(self, now: datetime | None = None) -> None:
        receive.run_due(self.vault, http=self.http, now=now or clock.now())

    def lines(self) -> list[Line]:
        with self.vault.read() as session:
            return letterbox.listed(session, *LetterState)

    def line(self) -> Line:
        (one,) = self.lines()
        return one

    def arrivals(self, state: ArrivalState = ArrivalState.WAITING) -> list[Arrival]:
        with self.vault.read() as session:
            found = [each.id for each in inbox.listed(session, state)]
        with self.vault.read() as session:
            return [inbox.get(session, each) for each in found]


@functools.cache
def _made_once() -> Path:
    """Return the folder of a house with a mail room: its keys cost a second, a copy does not."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with Home(folder) as home:
        Mailroom(home).close()
    return folder


@contextmanager
def opened_mailroom(folder: Path) -> Iterator[Mailroom]:
    shutil.copytree(_made_once() / "data", folder / "data")
    with Home(folder) as home:
        room = Mailroom.again(home)
        try:
            yield room
        finally:
            room.close()

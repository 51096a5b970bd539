"""The door for mail: takes in what is addressed to this house, seals it, and says so. SMTP.

RFC 5321, bounded in connections, time, commands and bytes. It opens nothing and believes nothing;
what came is judged by `phr.receive`. Loaded only where a place to listen is set.
"""

import asyncio
import logging
import threading
from contextlib import suppress
from typing import Any, Final

from aiosmtpd.smtp import SMTP, Envelope, Session

from phr import clock, logs
from phr.errors import Conflict, PhrError
from phr.sharing.channels.mime import MOST
from phr.store import arrived
from phr.store.arrived import Mail
from phr.store.house import House
from phr.store.vault import Vaults

log = logging.getLogger("phr.listener")

IDLE: Final = 60.0  # seconds without a command
LONGEST: Final = 600.0  # seconds of one connection
CONNECTIONS: Final = 16  # at once: each may hold one whole mail in memory
RECIPIENTS: Final = 20  # of one mail
COMMANDS: Final = 100  # of each kind in one connection
STARTING: Final = 10.0
LATER: Final = "452 4.3.1 Please try again later"
UNKNOWN: Final = "550 5.1.1 No such address here"


class Listener:
    """A listener in a thread of its own. `port` is the one it got."""

    def __init__(self, place: tuple[str, int], house: House, vaults: Vaults) -> None:
        """Take where to listen, and who seals what comes."""
        self._place = place
        self._door = _Door(house, vaults)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._problem: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="mail", daemon=True)
        self.port = 0

    def start(self) -> None:
        """Listen. Raises Conflict where that is not possible."""
        self._thread.start()
        if not self._ready.wait(STARTING) or self._problem is not None:
            raise Conflict(
                "Mail cannot be taken in at PHR_MAIL_LISTEN: this address is in use, is not this"
                " machine's, or is not allowed."
            ) from self._problem

    def stop(self) -> None:
        """Close every connection; a mail whose sender was not answered is not taken in."""
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STARTING)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            made = self._loop.create_server(self._door.connection, *self._place)
            server = self._loop.run_until_complete(made)
        except OSError as error:
            self._problem = error
            self._loop.close()
            self._ready.set()
            return
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._door.close_all()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


def start(place: tuple[str, int], house: House, vaults: Vaults) -> Listener:
    """Listen for mail at (address, port). Raises Conflict where that is not possible."""
    logging.getLogger("mail.log").setLevel(logging.CRITICAL + 1)  # the library's: it logs addresses
    made = Listener(place, house, vaults)
    made.start()
    logs.event(log, "mail.listening", port=made.port)
    return made


class _Connection(SMTP):
    """One connection, closed at the latest after ten minutes, whatever it does."""

    door: "_Door"
    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self.door.enter(self, transport):
            transport.close()
            return
        self._end = asyncio.get_running_loop().call_later(LONGEST, transport.abort)  # type: ignore[attr-defined]  # a transport of TCP
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.door.leave(self)
        if self._end is not None:
            self._end.cancel()
            super().connection_lost(error)


class _Door:
    """What the library asks at each step of a connection."""

    def __init__(self, house: House, vaults: Vaults) -> None:
        self._house, self._vaults = house, vaults
        self._open: dict[Any, asyncio.BaseTransport] = {}

    def connection(self) -> _Connection:
        """Return the protocol of a new connection."""
        made = _Connection(
            self,
            data_size_limit=MOST,
            hostname="homeport",
            ident="Homeport",
            enable_SMTPUTF8=False,
            timeout=IDLE,
            command_call_limit=COMMANDS,
            loop=asyncio.get_running_loop(),
        )
        made.door = self
        return made

    def enter(self, one: _Connection, transport: asyncio.BaseTransport) -> bool:
        """Count a connection in; False where there are enough."""
        if len(self._open) >= CONNECTIONS:
            return False
        self._open[one] = transport
        return True

    def leave(self, one: _Connection) -> None:
        """Count a connection out."""
        self._open.pop(one, None)

    def close_all(self) -> None:
        """Cut every connection."""
        for transport in list(self._open.values()):
            transport.abort()  # type: ignore[attr-defined]  # a transport of TCP

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take an address of this house, and no other: nothing is ever passed on."""
        del server, session
        if len(envelope.rcpt_tos) >= RECIPIENTS:
            return "452 4.5.3 Too many recipients"
        if await asyncio.to_thread(arrived.whose, self._house, address) is None:
            return UNKNOWN
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        """Seal what came to each record it is for; only then say that it was taken."""
        del server, session
        try:
            await asyncio.to_thread(self._keep, envelope)
        except PhrError as problem:
            logs.event(log, "mail.not_taken", logging.WARNING, why=type(problem).__name__)
            return LATER
        return "250 2.0.0 Taken"

    async def handle_exception(self, error: Exception) -> str:
        """Say nothing of what went wrong to a stranger."""
        logs.event(log, "mail.broke", logging.ERROR, error=type(error).__name__)
        return "451 4.3.0 Please try again later"

    def _keep(self, envelope: Envelope) -> None:
        now, content = clock.now(), envelope.content or b""
        raw = content if isinstance(content, bytes) else content.encode()
        by_patient: dict[str, list[str]] = {}
        for address in envelope.rcpt_tos:
            patient_id = arrived.whose(self._house, address)
            if patient_id is not None:
                by_patient.setdefault(patient_id, []).append(address)
        for patient_id, addresses in by_patient.items():
            mail = Mail(envelope.mail_from or "", tuple(addresses), now, raw)
            arrived.put_aside(self._vaults, patient_id, mail)
        logs.event(log, "mail.taken", vaults=len(by_patient), size=len(raw))

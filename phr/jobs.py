"""What runs by itself: pulls due, deliveries due, housekeeping, the nightly backup.

When, not what: each tick asks open vaults only and hands over to a conductor. Due times live in
the vaults, so a machine that slept catches up once and nothing is scheduled twice.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete

from phr import clock, connect, courtesy, gather, logs, memory, pull, push, transcribe
from phr.errors import Conflict, NotFound, PhrError, Sealed, VaultError
from phr.http import Http
from phr.sharing import channels, gate, letterbox, outbox
from phr.store import backup, connections, entries
from phr.store.house import House
from phr.store.models import PendingAuthorization, Postbox, Session
from phr.store.vault import Vault, Vaults

if TYPE_CHECKING:
    from phr.listener import Listener

log = logging.getLogger(__name__)

EVERY: Final = {  # seconds between looks; what is due decides, not how often one looks
    "pulls": 30,
    "deliveries": 15,
    "expiry": 60,
    "housekeeping": 600,
    "backup": 300,
    "catalogue": 900,
    "papers": 20,
    "mail": 15,
    "mailboxes": 30,
    "memory": 10,
}
AT_OPENING: Final = ("entries", "missed")  # done in the background when a vault opens
PULLS_AT_ONCE: Final = 2  # over all connections together: a small machine stays usable
LEAVING: Final = 2.0  # seconds that running pulls are waited for at the end


@dataclass(frozen=True, slots=True)
class Plan:
    """What the settings say about jobs."""

    outbox: Path
    public_url: str
    full_days: int = pull.FULL_DAYS
    backup_hour: int = 3
    backup_keep: int = 14
    mail_listen: tuple[str, int] | None = None  # where mail is taken in
    tend_catalogue: Callable[[], None] | None = None  # fetches what is due, lets go what is unused


@dataclass(frozen=True, slots=True)
class Tick:
    """How the last look of a job went; `sentence` says what failed."""

    name: str
    ran_at: datetime | None = None
    sentence: str | None = None


class Jobs:
    """The scheduler of one appliance. `start` once, `stop` at the end."""

    def __init__(self, house: House, vaults: Vaults, http: Http, plan: Plan) -> None:
        """Take what the jobs work with; nothing runs before `start`."""
        self._house, self._vaults, self._http, self._plan = house, vaults, http, plan
        self._channels = channels.opened(plan.outbox)
        self._began = clock.now()
        self._pullers = ThreadPoolExecutor(PULLS_AT_ONCE, thread_name_prefix="pull")
        self._asked: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        self._ticks = {name: Tick(name) for name in (*EVERY, *AT_OPENING)}
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="catch-up")
        self._scheduler: Any = None  # from `start` on
        self._listener: Listener | None = None  # from `start` on, where mail is taken in
        self._stopping = threading.Event()
        self._uses = 0  # of all stores together, when memory was given back

    def start(self) -> None:
        """Begin to look for what is due; also whenever a vault opens."""
        self._scheduler = _scheduler()
        for vault_id in self._vaults.open_ids():
            self._opened(self._vaults.get(vault_id))
        self._vaults.on_open.append(self._opened)
        works: dict[str, Callable[[], None]] = {
            "pulls": self.pull_due,
            "deliveries": self.deliver_due,
            "expiry": self.expire_grants,
            "housekeeping": self.keep_house,
            "backup": self.back_up_if_due,
            "catalogue": self._plan.tend_catalogue or (lambda: None),
            "papers": self.read_papers,
            "mail": self.take_mail,
            "mailboxes": self.fetch_mail,
            "memory": self.give_memory_back,
        }
        for name, work in works.items():
            self._scheduler.add_job(
                self._look, "interval", (name, work), seconds=EVERY[name], id=name
            )
        self._scheduler.start()
        if self._plan.mail_listen is not None:
            from phr import listener  # noqa: PLC0415 - only where mail is taken in

            self._listener = listener.start(self._plan.mail_listen, self._house, self._vaults)

    def stop(self) -> None:
        """End within a few seconds; interrupted pulls resume at the next start."""
        if self._listener is not None:
            self._listener.stop()
            self._listener = None
        with suppress(ValueError):
            self._vaults.on_open.remove(self._opened)
        self._stopping.set()
        if self._scheduler is not None and self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        transcribe.stop_all()
        self._behind.shutdown(wait=False, cancel_futures=True)
        self._pullers.shutdown(wait=False, cancel_futures=True)
        pull.stop_all(wait=LEAVING)

    def wake(self, name: str) -> None:
        """Look now instead of at the next tick: a person waits for it. Returns at once."""
        if self._scheduler is not None and self._scheduler.running:
            self._scheduler.modify_job(name, next_run_time=clock.now())

    def ticks(self) -> list[Tick]:
        """Return how the last look of each job went."""
        return list(self._ticks.values())

    def _look(self, name: str, work: Callable[[], None]) -> None:
        """Run one look. A failure is remembered and logged; the next look comes anyway."""
        sentence = None
        try:
            work()
        except Exception as problem:
            sentence = problem.sentence if isinstance(problem, PhrError) else PhrError.sentence
            log.exception("job.broke")
        self._ticks[name] = Tick(name, clock.now(), sentence)

    def _open_vaults(self) -> Iterator[Vault]:
        for vault_id in self._vaults.open_ids():
            with suppress(Sealed, NotFound):  # sealed or shredded since we looked
                yield self._vaults.get(vault_id)

    def _opened(self, vault: Vault) -> None:
        """Deal with deliveries that a crash left half sent, before any is tried again.

        What else has waited for the opening is made up in the background.
        """
        with vault.write() as session:
            outbox.recover(session, vault, self._channels, now=clock.now())
        with suppress(RuntimeError):  # the pool was shut down: we are stopping
            self._behind.submit(self._look, "entries", partial(self.refresh_entries, vault.id))
            self._behind.submit(self._look, "missed", partial(self.make_up_backup, vault.id))

    def refresh_entries(self, vault_id: str) -> None:
        """Make the entries of a vault anew when they were made by older rules."""
        with suppress(Sealed, NotFound):  # sealed or shredded since it was opened
            vault = self._vaults.get(vault_id)
            with vault.read() as session:
                outdated = entries.outdated(session)
            if outdated:
                gather.refresh(vault)
                logs.event(log, "entries.refreshed", vault=vault_id)

    def make_up_backup(self, vault_id: str) -> None:
        """Back up a vault that was sealed when the backup hour came."""
        since = _latest(clock.now(), self._plan.backup_hour)
        with suppress(Sealed, NotFound):
            keep = self._plan.backup_keep
            backup.make_up(self._house, self._vaults, vault_id, since=since, keep=keep)

    # ------------------------------------------------------------------------- pulls

    def pull_due(self) -> None:
        """Start every pull whose time has come; each connection at most once at a time."""
        for vault in self._open_vaults():
            with vault.read() as session:
                due = connections.due(session, now=clock.now())
            for connection_id in due:
                self.pull_soon(vault.id, connection_id)

    def pull_soon(self, vault_id: str, connection_id: int) -> bool:
        """Start one pull as soon as there is room; False when it is under way already."""
        key = (vault_id, connection_id)
        with self._lock:
            if key in self._asked or pull.is_running(*key):
                return False
            self._asked.add(key)
        try:
            self._pullers.submit(self._pull, *key)
        except RuntimeError:  # the pool was shut down: we are stopping
            self._asked.discard(key)
            return False
        return True

    def is_asked(self, vault_id: str, connection_id: int) -> bool:
        """Say whether a pull is under way or waits for its turn."""
        return (vault_id, connection_id) in self._asked

    def _pull(self, vault_id: str, connection_id: int) -> None:
        try:
            vault = self._vaults.get(vault_id)
            pull.run(
                vault,
                connection_id,
                http=self._http,
                now=clock.now(),
                full_days=self._plan.full_days,
            )
        except (Sealed, NotFound, Conflict):
            logs.event(log, "pull.not_now", connection=connection_id)
        except VaultError as problem:  # the disk: nothing could be written about it in the vault
            logs.event(log, "pull.not_kept", logging.ERROR, connection=connection_id)
            with suppress(PhrError):
                self._house.warn(vault_id, problem.sentence)
        except Exception:
            log.exception("pull.broke")
        finally:
            with self._lock:
                self._asked.discard((vault_id, connection_id))

    # ------------------------------------------------------------------------- the others

    def deliver_due(self) -> None:
        """Try every delivery whose time has come."""
        for vault in self._open_vaults():
            with _one_by_one("delivery", vault):
                push.refresh_bundles(vault, http=self._http, now=clock.now())
                push.run_due(
                    vault,
                    channels={**self._channels, **push.post(vault, http=self._http)},
                    public_url=self._plan.public_url,
                    now=clock.now(),
                )

    def expire_grants(self) -> None:
        """End the grants whose time has run out."""
        for vault in self._open_vaults():
            with _one_by_one("expiry", vault):
                gate.expire(vault, now=clock.now())

    def read_papers(self) -> None:
        """Read the files that came, for search; not while an import is under way."""
        for vault in self._open_vaults():
            with _one_by_one("papers", vault):
                transcribe.run_when_quiet(vault, stopping=self._stopping)

    def take_mail(self) -> None:
        """Judge the mail that came, put it into the inbox, and answer it."""
        for vault in self._open_vaults():
            with _one_by_one("mail", vault):
                if letterbox.is_due(vault, now=clock.now()):
                    from phr import receive  # noqa: PLC0415 - only where mail came

                    receive.run_due(vault, http=self._http, now=clock.now())

    def fetch_mail(self) -> None:
        """Fetch what came into mailboxes at providers; `take_mail` judges it."""
        for vault in self._open_vaults():
            with _one_by_one("mailbox", vault):
                with vault.read() as session:
                    is_set = session.get(Postbox, 1) is not None
                if is_set:
                    from phr import collect  # noqa: PLC0415 - only where Direct is used

                    if collect.run_due(vault, http=self._http, now=clock.now()):
                        self.wake("mail")

    def keep_house(self) -> None:
        """Forget what has run out: sign-ins at hospitals, sessions, drafts of connections."""
        now = clock.now()
        with self._house.write() as session:
            session.execute(
                delete(PendingAuthorization).where(PendingAuthorization.expires_at <= now)
            )
            session.execute(delete(Session).where(Session.expires_at <= now))
        for vault in self._open_vaults():
            with _one_by_one("housekeeping", vault), vault.write() as session:
                connections.forget_drafts(session, before=now - connect.DRAFT_FOR)
                letterbox.tidy(session, now=now)

    def give_memory_back(self) -> None:
        """Give back what is held for speed, once no page was asked for since the last look."""
        stores = [self._house.database, *(vault.database for vault in self._open_vaults())]
        uses = sum(store.uses for store in stores)
        if uses == self._uses or courtesy.quiet() < EVERY["memory"]:
            return
        self._uses = uses
        for store in stores:
            store.slim()
        memory.give_back_now()

    def back_up_if_due(self) -> None:
        """Back up once after each backup hour (local time); what was slept through is made up."""
        last = self._house.get_setting("last_backup")
        at = clock.from_ms(last["at"]) if last else self._began
        if at < _latest(clock.now(), self._plan.backup_hour):
            backup.back_up_all(self._house, self._vaults, keep=self._plan.backup_keep)


def _scheduler() -> Any:
    """Return the scheduler; the import costs tens of milliseconds that no start should wait for."""
    from apscheduler.executors.pool import ThreadPoolExecutor as Runners  # noqa: PLC0415 - see above
    from apscheduler.schedulers.background import BackgroundScheduler  # noqa: PLC0415 - see above

    return BackgroundScheduler(
        executors={"default": Runners(len(EVERY))},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        timezone="UTC",
    )


def _latest(now: datetime, hour: int) -> datetime:
    """Return the last time that the local clock showed this full hour."""
    local = now.astimezone()
    today = local.replace(hour=hour, minute=0, second=0, microsecond=0)
    return today if today <= local else today - timedelta(days=1)


@contextmanager
def _one_by_one(job: str, vault: Vault) -> Iterator[None]:
    """Let no vault's trouble stop the others."""
    try:
        yield
    except Sealed:
        pass
    except Exception:
        log.exception("%s.broke", job)
        logs.event(log, "job.vault_failed", logging.ERROR, job=job, vault=vault.id)

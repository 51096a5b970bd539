"""One SQLCipher file: opening, reading, writing in turn, checking, copying, changing its key.

The only place that knows the driver; its errors become ours here. What the tables mean is not
known here (`phr.store.models`), nor where keys come from (`phr.store.slots`).
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from functools import cache
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import quote

import sqlcipher3
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, NoResultFound
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import NullPool
from sqlcipher3 import dbapi2

from phr.errors import (
    Conflict,
    Damaged,
    NotFound,
    OutOfMemory,
    PhrError,
    Sealed,
    VaultError,
    WrongSecret,
)
from phr.store import files, migrations
from phr.store.files import flush
from phr.store.migrations import Kind

KEY_BYTES = 32
PAGE_BYTES = 8192
BUSY_SECONDS = 5.0
TURN_SECONDS = 60.0  # longest wait for the writer's turn
PAUSES, PAUSE_SECONDS = 20, 0.5  # how readers are asked to leave before the key changes
IDLE_READERS = 8
LEAST_SQLITE = (3, 51, 3)  # the WAL-reset race is fixed from here on
LEAST_SQLCIPHER = (4, 9)

PROCESS = (  # of the whole process, so before the key
    "cipher_log_level=NONE",  # it would print to stderr
    f"cipher_default_page_size={PAGE_BYTES}",  # else VACUUM INTO writes a file nobody can read
)
PRAGMAS = (  # in this order, after the key and before the first read
    f"cipher_page_size={PAGE_BYTES}",
    "foreign_keys=1",
    "trusted_schema=0",
    "cell_size_check=1",
    "temp_store=2",
    "mmap_size=0",
    "synchronous=2",
)
READER = (
    "query_only=1",
    "wal_autocheckpoint=0",
    "cache_size=-4000",
)  # one checkpointer: the writer
WRITER = ("journal_mode=wal", "journal_size_limit=67108864", "cache_size=-16000")
EXPECTED: dict[str, object] = {  # security.md c2-4, asked of every connection
    "cipher_use_hmac": "1",
    "cipher_page_size": str(PAGE_BYTES),
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "trusted_schema": 0,
    "cell_size_check": 1,
    "temp_store": 2,
}
PLAIN_HEADER = b"SQLite format 3"

# The driver asks each value but int, float and str whether it adapts itself, and each "no" costs it
# an exception: for bytes and None 1 us a value, half of an insert. These two answer at once.
dbapi2.register_adapter(bytes, bytes)
dbapi2.register_adapter(type(None), {None: None}.get)

FOREIGN = (DBAPIError, NoResultFound, StaleDataError, dbapi2.Error)
WORDS: dict[int, tuple[type[PhrError], str]] = {  # primary result codes of SQLite
    5: (Conflict, "The store is busy with something else. Please try again."),
    6: (Conflict, "The store is busy with something else. Please try again."),
    7: (OutOfMemory, OutOfMemory.sentence),
    8: (VaultError, "The data folder cannot be written to. Nothing was changed."),
    10: (VaultError, "Reading or writing failed; the disk may be failing. Please check the disk."),
    11: (Damaged, Damaged.sentence),
    13: (VaultError, "The disk is full. This step was not stored; what was stored before is safe."),
    14: (VaultError, "The file could not be opened; look at its folder's owner and rights."),
    19: (Conflict, Conflict.sentence),
    26: (Damaged, "This file is damaged, or it is not encrypted with the key that was given."),
}


class Priority(IntEnum):
    """Whose turn it is: revoke, claim, token and audit before people, people before bulk."""

    URGENT = 0
    NORMAL = 1
    BULK = 2


class Turn:
    """The one writer's place of a file: a lock that serves by priority, then by arrival."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[tuple[int, int]] = []
        self._tickets = count()
        self._taken = False

    def take(self, priority: Priority, seconds: float = TURN_SECONDS) -> None:
        """Wait for the turn; raise Conflict when it does not come in time."""
        with self._changed:
            ticket = (int(priority), next(self._tickets))
            heappush(self._queue, ticket)
            mine = self._changed.wait_for(
                lambda: not self._taken and self._queue[0] == ticket, seconds
            )
            if not mine:
                self._queue.remove(ticket)
                self._queue.sort()
                self._changed.notify_all()
                raise Conflict(WORDS[5][1])
            heappop(self._queue)
            self._taken = True

    def give(self) -> None:
        """Let the next one write."""
        with self._changed:
            self._taken = False
            self._changed.notify_all()

    def urgent_waiting(self) -> bool:
        """Tell whether somebody of priority URGENT waits now."""
        queue = self._queue
        return bool(queue) and queue[0][0] == Priority.URGENT


class _Held(threading.local):
    """The kinds of files in which this thread is writing just now."""

    def __init__(self) -> None:
        self.kinds: list[str] = []


_held = _Held()


class Database:
    """One SQLCipher file: many readers, one writer, WAL, `synchronous=FULL`."""

    def __init__(self, path: Path, key: bytes, *, kind: Kind) -> None:
        self.path = path
        self.kind = kind
        self._key = key
        self._turn = Turn()
        self._gate = threading.Condition()
        self._readers: set[Connection] = set()
        self._idle: deque[Connection] = deque()
        self._state: Literal["open", "paused", "closed"] = "open"
        self._read_engine = _engine(lambda: self.connect(READER), "BEGIN")
        self._write_engine = _engine(lambda: self.connect(WRITER), "BEGIN IMMEDIATE")
        self._writer: Connection | None = None
        self.commits = 0  # transactions committed so far: what was read at this count still holds
        self.uses = 0  # times that somebody read or wrote: unchanged means idle

    def __repr__(self) -> str:
        """Name the file, never the key."""
        return f"Database({self.kind} {self.path.name})"

    @classmethod
    def open(
        cls,
        path: Path,
        key: bytes,
        *,
        kind: Kind,
        create: bool = False,
        before_migration: Callable[["Database", int], None] | None = None,
    ) -> "Database":
        """Open the file with its raw 32-byte key and bring its schema up to date.

        With `create` a missing or empty file is made (0600). `before_migration(database, version)`
        is called before an existing file is changed: it keeps the copy. Raises NotFound,
        WrongSecret, Damaged or NewerSchema; the file is then untouched.
        """
        assert_build()
        _prepare(path, create=create)
        database = cls(path, key, kind=kind)
        try:
            database.check_key()
            if not database._must_migrate(before_migration):
                database._open_writer()  # WAL and every assertion, before anybody reads
            else:
                database._migrate()
        except BaseException:
            database.close()
            raise
        return database

    # ------------------------------------------------------------------ reading and writing

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Give a session on one snapshot; it never waits for writers and cannot write."""
        connection = self._borrow()
        session = Session(connection, expire_on_commit=False)
        try:
            yield session
        except FOREIGN as error:
            raise in_words(error) from error
        finally:
            self._give_back(connection, session)

    @contextmanager
    def write(self, priority: Priority = Priority.NORMAL) -> Iterator[Session]:
        """Give the writer's session: BEGIN IMMEDIATE, commit at the end, roll back on any error.

        A thread may write to house.db while it writes to one vault, not the other way round and
        not twice into the same kind: that order is what keeps two threads from waiting for ever.
        """
        if self.kind in _held.kinds or (self.kind == "vault" and _held.kinds):
            raise RuntimeError(f"{self.kind} write inside a {_held.kinds[-1]} write")
        self._turn.take(priority)
        _held.kinds.append(self.kind)
        try:
            yield from self._transaction()
        finally:
            _held.kinds.pop()
            self._turn.give()

    def urgent_waiting(self) -> bool:
        """Tell a bulk writer that it should end its transaction now."""
        return self._turn.urgent_waiting()

    def _transaction(self) -> Iterator[Session]:
        if self._state == "closed":
            raise Sealed
        self.uses += 1
        writer = self._writer or self._open_writer()
        try:
            writer.begin()
        except FOREIGN as error:
            self._drop_writer()
            raise in_words(error) from error
        session = Session(writer, expire_on_commit=False)
        try:
            yield session
            session.flush()
            writer.commit()
            self.commits += 1
        except FOREIGN as error:
            self._undo(session)
            raise in_words(error) from error
        except BaseException:
            self._undo(session)
            raise
        session.close()

    def _undo(self, session: Session) -> None:
        try:
            session.close()
            if self._writer is not None:
                self._writer.rollback()
        except (DBAPIError, dbapi2.Error):
            self._drop_writer()

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(DBAPIError, dbapi2.Error):
                writer.close()

    def slim(self) -> None:
        """Drop the cached pages of connections that nobody uses just now; the next read refills."""
        with self._gate:
            idle = [*self._idle]
            self._idle.clear()
            self._readers.update(idle)  # who closes the file waits for them
        for connection in idle:
            self._shrink(connection)
            self._give_back(connection)
        with suppress(Conflict):  # somebody writes: not idle
            self._turn.take(Priority.BULK, 0)
            try:
                if self._writer is not None:
                    self._shrink(self._writer)
            finally:
                self._turn.give()

    def _shrink(self, connection: Connection) -> None:
        with suppress(DBAPIError, dbapi2.Error):
            _driver(connection).execute("PRAGMA shrink_memory")

    def _borrow(self) -> Connection:
        self.uses += 1
        with self._gate:
            if self._state != "open":
                self._wait_open()
            connection = self._idle.pop() if self._idle else None
            if connection is not None:
                self._readers.add(connection)
                return connection
        try:
            connection = self._read_engine.connect()
        except FOREIGN as error:
            raise in_words(error) from error
        with self._gate:
            if self._state == "open":
                self._readers.add(connection)
                return connection
        connection.close()
        return self._borrow()

    def _wait_open(self) -> None:
        self._gate.wait_for(lambda: self._state != "paused", TURN_SECONDS)
        if self._state == "closed":
            raise Sealed
        if self._state == "paused":
            raise Conflict(WORDS[5][1])

    def _give_back(self, connection: Connection, session: Session | None = None) -> None:
        keep = True
        try:
            if session is not None:
                session.close()
                session.bind = None  # it asks no more: another thread may have the connection
            connection.rollback()
            _driver(connection).rollback()  # what `rows` began, SQLAlchemy does not know of
        except (DBAPIError, dbapi2.Error):
            keep = False
        with self._gate:
            self._readers.discard(connection)
            keep = keep and self._state == "open" and len(self._idle) < IDLE_READERS
            if keep:
                self._idle.append(connection)
            elif self._state != "open":
                self._gate.notify_all()
        if not keep:
            with suppress(DBAPIError, dbapi2.Error):
                connection.close()

    # ------------------------------------------------------------------ opening and closing

    def connect(self, pragmas: tuple[str, ...] = ()) -> Any:
        """Return a driver connection with key and pragmas, each of them asserted."""
        address = f"file:{quote(str(self.path))}?mode=rw"
        connection = dbapi2.connect(
            address,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            uri=True,
        )
        try:
            for pragma in PROCESS:
                connection.execute(f"PRAGMA {pragma}")
            connection.set_key(_spelled(self._key))  # never as SQL text: a trace would show it
            for pragma in (*PRAGMAS, *pragmas):
                connection.execute(f"PRAGMA {pragma}")
            if pragmas:
                assert_settings(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _plain(self) -> Iterator[Any]:
        """Give a driver connection that changes nothing about the file, not even its journal."""
        try:
            connection = self.connect()
            try:
                yield connection
            finally:
                connection.close()
        except dbapi2.Error as error:
            raise in_words(error) from error

    def check_key(self) -> None:
        """Read the schema before anything is set that would write. Raises WrongSecret."""
        try:
            with self._plain() as connection:
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except Damaged as error:
            raise WrongSecret(
                "This key does not open the file. If the key is right, the file is damaged, or a"
                " -wal file of another copy lies beside it."
            ) from error

    def _must_migrate(self, before: Callable[["Database", int], None] | None) -> bool:
        have = self.version()
        must = migrations.needed(self.kind, have)
        if must and have and before is not None:
            before(self, have)
        return must

    def _migrate(self) -> None:
        with self.write() as session:
            migrations.run(session.connection(), self.kind)

    def _open_writer(self) -> Connection:
        try:
            self._writer = self._write_engine.connect()
        except FOREIGN as error:
            raise in_words(error) from error
        return self._writer

    def close(self, grace: float = 2.0) -> None:
        """Close every connection; reads still running after `grace` seconds are interrupted."""
        with self._gate:
            if self._state == "closed":
                return
            self._state = "closed"
            self._gate.notify_all()
            self._gate.wait_for(lambda: not self._readers, grace)
            for reader in self._readers:
                _driver(reader).interrupt()
            self._gate.wait_for(lambda: not self._readers, grace)
        self._turn.take(Priority.URGENT)
        try:
            self._close_all()
        finally:
            self._turn.give()

    def _close_all(self) -> None:
        while self._idle:
            self._idle.pop().close()
        self._drop_writer()  # last: it is the one that may checkpoint

    # ------------------------------------------------------------------ the whole file

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the writer's turn with every connection of this process closed."""
        self._turn.take(Priority.URGENT)
        try:
            self._pause_readers()
            self._close_all()
            yield
        finally:
            with self._gate:
                if self._state == "paused":
                    self._state = "open"
                self._gate.notify_all()
            self._turn.give()

    def _pause_readers(self) -> None:
        """Let readers leave and no new ones in.

        In short attempts: somebody may be reading in a thread that itself waits to read here.
        """
        for _ in range(PAUSES):
            with self._gate:
                if self._state == "closed":
                    raise Sealed
                self._state = "paused"
                if self._gate.wait_for(lambda: not self._readers, PAUSE_SECONDS):
                    return
                self._state = "open"
                self._gate.notify_all()
                self._gate.wait(PAUSE_SECONDS)
        raise Conflict("Somebody is still reading. Please try again in a minute.")

    def rekey(self, key: bytes) -> None:
        """Encrypt the file under another raw key and verify it; a crash leaves one of both.

        When it fails, `has_key` tells which of both fits now; where not even that can be found
        out, this store is closed.
        """
        with self._alone():
            try:
                connection = self.connect(WRITER)
                try:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                    connection.reset_key(_spelled(key))
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                finally:
                    connection.close()
                self._key = key
                self._refuse_damage()
            except (dbapi2.Error, PhrError) as error:
                self._take_fitting(key, self._key)
                raise in_words(error) if isinstance(error, dbapi2.Error) else error from error

    def has_key(self, key: bytes) -> bool:
        """Tell whether this store is open under this key."""
        return self._state != "closed" and key == self._key

    def _take_fitting(self, *keys: bytes) -> None:
        """Go on with the key that opens the file: a step that failed may have been stored."""
        for key in keys:
            self._key = key
            with suppress(PhrError):
                self.check_key()
                return
        self._state = "closed"

    def copy_to(self, target: Path) -> None:
        """Write a consistent, compact copy under the same key into the new file `target` (0600).

        One shot of `VACUUM INTO` on its own connection: writers go on meanwhile, and the copy is
        on the disk when this returns.
        """
        if target.exists():
            raise FileExistsError(target)
        part = target.with_name(f".{target.name}.part")
        part.unlink(missing_ok=True)
        try:
            with files.in_words():
                os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                with self._plain() as connection:
                    connection.execute("VACUUM INTO ?", (str(part),))
                flush(part)
                part.rename(target)
                flush(target)
        except PhrError:
            part.unlink(missing_ok=True)
            raise

    def problems(self) -> list[str]:
        """Check every page and every row; the list is empty when all is well.

        Both checks are needed: a file cut at a page boundary passes the first, a swapped page may
        pass the second (security.md d).
        """
        try:
            with self._plain() as connection:
                found = [row[0] for row in connection.execute("PRAGMA cipher_integrity_check")]
                checked = [row[0] for row in connection.execute("PRAGMA integrity_check")]
                loose = connection.execute("PRAGMA foreign_key_check").fetchall()
        except PhrError as error:
            return [error.sentence]
        found += [line for line in checked if line != "ok"]
        return found + [f"row {row[1]} of {row[0]} points nowhere" for row in loose]

    def version(self) -> int:
        """Return the schema's version (`user_version`); 0 is an empty file."""
        with self._plain() as connection:
            return migrations.version_of(connection)

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        with self._plain() as connection:
            run = connection.execute
            names = run("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name")
            tables = [name for (name,) in names if not name.startswith(("sqlite_", "search"))]
            return {name: run(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}

    def _refuse_damage(self) -> None:
        if found := self.problems():
            raise Damaged(f"{Damaged.sentence} ({found[0]})")


# ---------------------------------------------------------------------- assertions


@cache
def assert_build() -> None:
    """Refuse a SQLCipher that is too old or built in a way that would write plain text."""
    connection = dbapi2.connect(":memory:")
    try:
        version = connection.execute("PRAGMA cipher_version").fetchone()
        options = {row[0] for row in connection.execute("PRAGMA compile_options")}
        problems = build_problems(sqlcipher3.sqlite_version_info, version and version[0], options)
        if _loads_extensions(connection):
            problems.append("extension loading is on")
    finally:
        connection.close()
    if problems:
        raise VaultError("This SQLCipher cannot be used: " + "; ".join(problems) + ".")


def build_problems(sqlite: tuple[int, ...], sqlcipher: str | None, options: set[str]) -> list[str]:
    """Return what is wrong with a build (security.md c2-4); empty when it may be used."""
    problems = []
    if sqlite < LEAST_SQLITE:
        problems.append(f"SQLite {'.'.join(map(str, sqlite))} is older than 3.51.3")
    if sqlcipher is None:
        problems.append("it does not encrypt (no cipher_version)")
    elif tuple(int(part) for part in sqlcipher.split()[0].split(".")[:2]) < LEAST_SQLCIPHER:
        problems.append(f"SQLCipher {sqlcipher} is older than 4.9")
    if not options & {"TEMP_STORE=2", "TEMP_STORE=3"}:
        problems.append("temporary files could be written in plain text (TEMP_STORE)")
    return problems


def assert_settings(connection: Any) -> None:
    """Refuse a connection whose pragmas are not what EXPECTED says."""
    for name, wanted in EXPECTED.items():
        row = connection.execute(f"PRAGMA {name}").fetchone()
        if row is None or row[0] != wanted:
            raise VaultError(f"The store could not be opened safely ({name}).")


def _loads_extensions(connection: Any) -> bool:
    try:
        connection.execute("SELECT load_extension('homeport-probe')")
    except dbapi2.OperationalError as error:
        return "not authorized" not in str(error)
    return True


# ---------------------------------------------------------------------- small parts


def in_words(error: Exception) -> PhrError:
    """Translate an error of SQLAlchemy or the driver (one of FOREIGN) into one of ours."""
    if isinstance(error, NoResultFound):
        return NotFound()
    if isinstance(error, StaleDataError):
        return Conflict()
    cause = error.orig if isinstance(error, DBAPIError) else error
    primary = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    kind, sentence = WORDS.get(primary, (VaultError, PhrError.sentence))
    return kind(sentence)


def rows(session: Session, sql: str, params: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    """Return all rows of a query as plain tuples, in the session's own transaction.

    For the few queries of every request: SQLAlchemy's description of a result costs more than they.
    """
    found: list[tuple[Any, ...]] = _asked(session, sql, params).fetchall()
    return found


def each_row(
    session: Session, sql: str, params: tuple[object, ...] = ()
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query one by one, where all at once would take much memory."""
    yield from _asked(session, sql, params)


def _asked(session: Session, sql: str, params: tuple[object, ...]) -> Any:
    driver = _driver(cast("Connection", session.get_bind()))  # `read` and `write` bind one
    if not driver.in_transaction:  # nobody has asked SQLAlchemy for anything yet
        driver.execute("BEGIN")
    return driver.execute(sql, params)


def remove(path: Path) -> None:
    """Remove a database file and what SQLite keeps beside it; missing ones do not matter."""
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
        path.with_name(name).unlink(missing_ok=True)


def _prepare(path: Path, *, create: bool) -> None:
    try:
        size = path.stat().st_size if path.exists() else None
        if size is None and create:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            flush(path)
            return
        if size is None:
            raise NotFound(f"The file {path.name} is not there.")
        if size == 0 and not create:
            raise Damaged(f"The file {path.name} is empty. Restore a backup to go on.")
        with path.open("rb") as file:
            if file.read(len(PLAIN_HEADER)) == PLAIN_HEADER:
                raise Damaged(f"The file {path.name} is not encrypted: it is not Homeport's.")
    except OSError as error:
        raise VaultError(
            f"{path} cannot be used by user id {os.getuid()}: {error.strerror}."
        ) from error


def _spelled(key: bytes) -> str:
    if len(key) != KEY_BYTES:
        raise WrongSecret("A key of a store has 32 bytes.")
    return f"x'{key.hex()}'"


def _engine(creator: Callable[[], Any], begin: str) -> Engine:
    engine = create_engine(
        "sqlite://", module=dbapi2, creator=creator, poolclass=NullPool, hide_parameters=True
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        driver = _driver(connection)
        if not driver.in_transaction:  # `rows` may have begun it
            driver.execute(begin)

    return engine


def _driver(connection: Connection) -> Any:
    return connection.connection.dbapi_connection

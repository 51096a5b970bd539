"""One encrypted file: keys, settings, turns, snapshots, damage, copies, a new key."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import apsw
import pytest
import sqlcipher3
from sqlalchemy import Connection, text
from sqlalchemy.exc import UnboundExecutionError

from phr import clock, ids
from phr.errors import (
    Conflict,
    Damaged,
    NewerSchema,
    NotFound,
    PhrError,
    Sealed,
    VaultError,
    WrongSecret,
)
from phr.store import database, migrations
from phr.store.database import PAGE_BYTES, Database, Priority, Turn
from phr.store.models import HouseBase, Recipient, VaultBase, VaultFact

KEY = ids.random_bytes(32)
PLAIN_TEXT = "Penicillin-canary-47114711"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
def vault(path: Path) -> Iterator[Database]:
    opened = Database.open(path, KEY, kind="vault", create=True)
    yield opened
    opened.close()


def put(vault: Database, name: str, value: bytes = b"1") -> None:
    with vault.write() as session:
        session.merge(VaultFact(name=name, value=value))


def fill(vault: Database, rows: int, size: int) -> None:
    with vault.write() as session:
        session.add_all(VaultFact(name=str(n), value=os.urandom(size)) for n in range(rows))


def names(vault: Database) -> set[str]:
    with vault.read() as session:
        rows = session.connection().exec_driver_sql("SELECT name FROM vault_fact")
        return {row[0] for row in rows}


def second_reader(path: Path, key: bytes) -> apsw.Connection:
    """Open with SQLite3 Multiple Ciphers: somebody else's implementation of the format."""
    connection = apsw.Connection(str(path))
    for name, value in (("cipher", "sqlcipher"), ("legacy", 4), ("legacy_page_size", PAGE_BYTES)):
        connection.pragma(name, value)
    connection.pragma("key", f"raw:{key.hex()}")
    return connection


# ---------------------------------------------------------------------- safe settings


def test_every_connection_is_asserted_safe(vault: Database) -> None:
    for pragmas in (database.READER, database.WRITER):
        connection = vault.connect(pragmas)
        for name, wanted in database.EXPECTED.items():
            assert connection.execute(f"PRAGMA {name}").fetchone()[0] == wanted
        connection.close()


@pytest.mark.parametrize("name", ["temp_store=1", "synchronous=1", "foreign_keys=0",
                                  "trusted_schema=1", "cell_size_check=0"])  # fmt: skip
def test_a_connection_with_an_unsafe_setting_is_refused(vault: Database, name: str) -> None:
    connection = vault.connect(database.READER)
    connection.execute(f"PRAGMA {name}")
    with pytest.raises(VaultError, match=name.split("=", maxsplit=1)[0]):
        database.assert_settings(connection)
    connection.close()


def test_a_reader_in_another_journal_mode_is_refused(path: Path) -> None:
    Database.open(path, KEY, kind="vault", create=True).close()
    plain = Database(path, KEY, kind="vault")
    with plain._plain() as connection:
        connection.execute("PRAGMA journal_mode=delete").fetchone()
    with pytest.raises(VaultError, match="journal_mode"):
        plain.connect(database.READER)


@pytest.mark.parametrize(
    ("sqlite", "cipher", "options", "said"),
    [
        ((3, 51, 2), "4.19.0 community", {"TEMP_STORE=2"}, "3.51.3"),
        ((3, 53, 0), None, {"TEMP_STORE=2"}, "does not encrypt"),
        ((3, 53, 0), "4.8.1 community", {"TEMP_STORE=2"}, "older than 4.9"),
        ((3, 53, 0), "4.19.0 community", {"TEMP_STORE=1"}, "TEMP_STORE"),
    ],
)
def test_an_unsafe_build_is_named(
    sqlite: tuple[int, ...], cipher: str | None, options: set[str], said: str
) -> None:
    (problem,) = database.build_problems(sqlite, cipher, options)
    assert said in problem


def test_this_build_is_safe_and_loads_no_extension(vault: Database) -> None:
    database.assert_build()
    assert sqlcipher3.sqlite_version_info >= database.LEAST_SQLITE
    with vault.read() as session, pytest.raises(Exception, match="not authorized"):
        session.connection().exec_driver_sql("SELECT load_extension('x')")


def test_nothing_readable_is_on_the_disk(vault: Database, tmp_path: Path) -> None:
    with vault.write() as session:
        session.add(Recipient(id="1", name=PLAIN_TEXT, kind="link", created_at=clock.now()))
        session.connection().exec_driver_sql(
            "INSERT INTO search(rowid, words) VALUES (1, ?)", (PLAIN_TEXT,)
        )
    on_disk = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert set(on_disk) == {"a.db", "a.db-wal", "a.db-shm"}
    for content in on_disk.values():
        assert PLAIN_TEXT.encode() not in content
        assert b"CREATE TABLE" not in content
        assert not content.startswith(b"SQLite format 3")


def test_files_are_for_the_owner_only(vault: Database, tmp_path: Path) -> None:
    put(vault, "x")
    assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o600}


# ---------------------------------------------------------------------- keys and foreign files


def test_wrong_key_is_told_in_words_and_changes_nothing(vault: Database, path: Path) -> None:
    put(vault, "x")
    vault.close()
    before = path.read_bytes()
    with pytest.raises(WrongSecret, match="key does not open"):
        Database.open(path, ids.random_bytes(32), kind="vault")
    assert path.read_bytes() == before


def test_a_key_of_the_wrong_size_is_refused(path: Path) -> None:
    with pytest.raises(WrongSecret, match="32 bytes"):
        Database.open(path, b"short", kind="vault", create=True)


def test_a_plain_database_is_refused_untouched(path: Path) -> None:
    with sqlite3.connect(path) as plain:
        plain.execute("CREATE TABLE t (a)")
    plain.close()
    before = path.read_bytes()
    with pytest.raises(Damaged, match="not encrypted"):
        Database.open(path, KEY, kind="vault")
    assert path.read_bytes() == before


def test_missing_empty_and_garbage_files_are_told_apart(path: Path) -> None:
    with pytest.raises(NotFound, match="not there"):
        Database.open(path, KEY, kind="vault")
    path.touch()
    with pytest.raises(Damaged, match="empty"):
        Database.open(path, KEY, kind="vault")
    path.write_bytes(os.urandom(3 * PAGE_BYTES))
    with pytest.raises(WrongSecret):
        Database.open(path, KEY, kind="vault")


def test_an_empty_file_left_by_a_crash_is_filled_when_creating(path: Path) -> None:
    path.touch(0o600)
    opened = Database.open(path, KEY, kind="house", create=True)
    assert opened.version() == migrations.newest("house")
    opened.close()


def test_a_folder_in_the_files_place_is_told(path: Path) -> None:
    path.mkdir()
    with pytest.raises(VaultError, match="user id"):
        Database.open(path, KEY, kind="vault")


def test_a_second_implementation_reads_the_file(vault: Database, path: Path) -> None:
    put(vault, "x", b"hello")
    vault.close()
    reader = second_reader(path, KEY)
    assert reader.execute("SELECT value FROM vault_fact WHERE name='x'").fetchall() == [(b"hello",)]
    assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    reader.close()


# ---------------------------------------------------------------------- reading and writing


def test_write_commits_at_the_end_and_rolls_back_on_error(vault: Database) -> None:
    put(vault, "kept")
    with suppress(ZeroDivisionError), vault.write() as session:
        session.add(VaultFact(name="lost", value=b"1"))
        session.flush()
        raise ZeroDivisionError
    assert names(vault) == {"kept"}
    put(vault, "after")
    assert names(vault) == {"kept", "after"}


def test_reader_keeps_its_snapshot_while_a_writer_commits(vault: Database) -> None:
    put(vault, "one")
    with vault.read() as session:
        ask = "SELECT count(*) FROM vault_fact"
        assert session.connection().exec_driver_sql(ask).scalar_one() == 1
        put(vault, "two")
        assert session.connection().exec_driver_sql(ask).scalar_one() == 1
    assert names(vault) == {"one", "two"}


def test_readers_are_served_while_somebody_writes(vault: Database) -> None:
    with vault.write() as session:
        session.add(VaultFact(name="x", value=b"1"))
        session.flush()
        assert names(vault) == set()


def test_caches_are_given_back_without_disturbing_who_reads_or_writes(vault: Database) -> None:
    fill(vault, 50, 20_000)
    with vault.read() as session:
        before = session.connection().exec_driver_sql("SELECT count(*) FROM vault_fact").scalar()
        vault.slim()  # one connection is busy, none is idle
        put(vault, "later")
        assert before == 50
        again = session.connection().exec_driver_sql("SELECT count(*) FROM vault_fact").scalar()
        assert again == before
    with vault.write() as session:
        session.merge(VaultFact(name="last", value=b"1"))
        done = threading.Thread(target=vault.slim)  # does not wait for the writer
        done.start()
        done.join(5)
        assert not done.is_alive()
    vault.slim()
    assert names(vault) >= {"0", "49", "later", "last"}
    vault.close()
    vault.slim()  # nothing is open, nothing is opened
    with pytest.raises(Sealed):
        names(vault)


def test_read_session_cannot_write(vault: Database) -> None:
    with pytest.raises(VaultError), vault.read() as session:
        session.connection().exec_driver_sql("INSERT INTO vault_fact VALUES ('x', x'00')")
    assert names(vault) == set()


def test_errors_of_the_driver_become_ours(vault: Database) -> None:
    put(vault, "x")
    with pytest.raises(Conflict), vault.write() as session:
        session.connection().exec_driver_sql("INSERT INTO vault_fact VALUES ('x', x'00')")
    with pytest.raises(NotFound), vault.read() as session:
        session.get_one(VaultFact, "none")
    with pytest.raises(PhrError), vault.read() as session:
        session.connection().exec_driver_sql("SELECT nonsense")


def test_error_text_holds_no_parameter(vault: Database) -> None:
    put(vault, "x")
    with pytest.raises(Conflict) as caught, vault.write() as session:
        session.connection().exec_driver_sql(
            "INSERT INTO vault_fact VALUES (?, ?)", ("x", PLAIN_TEXT.encode())
        )
    assert PLAIN_TEXT not in f"{caught.value} {caught.value.__cause__}"


def test_an_error_that_is_not_the_drivers_passes_unchanged(vault: Database) -> None:
    for use in (vault.read, vault.write):
        error = ValueError("mine")
        with pytest.raises(ValueError, match="mine") as caught, use():
            raise error
        assert caught.value is error
        assert caught.value.__cause__ is None


def test_another_writer_outside_is_a_conflict(
    vault: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.close()
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
    here = Database.open(vault.path, KEY, kind="vault")
    outside = here.connect(database.WRITER)
    outside.execute("BEGIN IMMEDIATE")
    with pytest.raises(Conflict, match="busy"):
        put(here, "x")
    outside.execute("ROLLBACK")
    outside.close()
    put(here, "x")
    assert names(here) == {"x"}
    here.close()


def test_a_connection_that_broke_is_replaced(vault: Database) -> None:
    put(vault, "x")
    with pytest.raises(PhrError), vault.write() as session:
        session.connection().connection.dbapi_connection.close()
    put(vault, "y")
    with suppress(PhrError), vault.read() as session:
        session.connection().connection.dbapi_connection.close()
    assert names(vault) == {"x", "y"}


def test_a_file_that_vanished_is_told(vault: Database, path: Path) -> None:
    for each in path.parent.iterdir():
        each.unlink()
    with pytest.raises(VaultError, match="opened"):
        names(vault)


def test_foreign_keys_hold(vault: Database) -> None:
    with pytest.raises(Conflict), vault.write() as session:
        session.connection().exec_driver_sql(
            "INSERT INTO pull (connection_id, state, full, started_at) VALUES (7,'done',1,0)"
        )


def test_writing_twice_in_one_thread_is_a_mistake_not_a_dead_lock(
    vault: Database, tmp_path: Path
) -> None:
    house = Database.open(tmp_path / "h.db", KEY, kind="house", create=True)
    with vault.write(), house.write():
        pass
    for outer, inner in ((vault, vault), (house, vault), (house, house)):
        with pytest.raises(RuntimeError, match="inside"), outer.write(), inner.write():
            pass
    put(vault, "still works")
    house.close()


def test_connections_can_be_used_from_any_thread(vault: Database) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(10):
                put(vault, f"{number}-{turn}")
                assert f"{number}-{turn}" in names(vault)
        except BaseException as error:  # noqa: BLE001 - shown by the assert below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(names(vault)) == 120


def test_the_urgent_write_before_the_bulk() -> None:
    turn, order, ready = Turn(), [], threading.Barrier(4)

    def work(priority: Priority) -> None:
        ready.wait()
        turn.take(priority)
        order.append(priority)
        turn.give()

    turn.take(Priority.NORMAL)
    kinds = (Priority.BULK, Priority.NORMAL, Priority.URGENT)
    threads = [threading.Thread(target=work, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    ready.wait()
    while len(turn._queue) < 3:
        pass
    assert turn.urgent_waiting()
    turn.give()
    for thread in threads:
        thread.join()
    assert order == [Priority.URGENT, Priority.NORMAL, Priority.BULK]
    assert not turn.urgent_waiting()


def test_a_turn_that_does_not_come_is_a_conflict_and_leaves_the_queue() -> None:
    turn = Turn()
    turn.take(Priority.NORMAL)
    with pytest.raises(Conflict):
        turn.take(Priority.URGENT, seconds=0.01)
    assert not turn.urgent_waiting()
    turn.give()
    turn.take(Priority.BULK, seconds=0.01)


# ---------------------------------------------------------------------- closing


def test_a_closed_store_is_sealed(vault: Database) -> None:
    vault.close()
    vault.close()
    for use in (vault.read, vault.write):
        with pytest.raises(Sealed), use():
            pass


def test_closing_interrupts_a_reader_that_does_not_end(vault: Database) -> None:
    started, ended = threading.Event(), []

    def read_for_ever() -> None:
        endless = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n"
        )
        try:
            with vault.read() as session:
                started.set()
                session.connection().exec_driver_sql(endless)
        except PhrError as error:
            ended.append(error)

    reader = threading.Thread(target=read_for_ever)
    reader.start()
    started.wait()
    vault.close(grace=0.05)
    reader.join(10)
    assert len(ended) == 1


# ---------------------------------------------------------------------- damage


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def swap_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    one, two = slice(PAGE_BYTES * 3, PAGE_BYTES * 4), slice(PAGE_BYTES * 4, PAGE_BYTES * 5)
    data[one], data[two] = data[two], data[one]
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["bit", "swap", "zero", "cut"])
def test_damage_is_found_by_the_checks(vault: Database, path: Path, kind: str) -> None:
    fill(vault, 200, 400)
    assert vault.problems() == []
    vault.close()
    size = path.stat().st_size
    if kind == "bit":
        flip(path, size - PAGE_BYTES - 100)
    elif kind == "swap":
        swap_pages(path)
    elif kind == "zero":
        with path.open("r+b") as file:
            file.seek(size - PAGE_BYTES)
            file.write(bytes(PAGE_BYTES))
    else:
        os.truncate(path, size - 2 * PAGE_BYTES)
    assert Database(path, KEY, kind="vault").problems()


def test_a_damaged_page_is_damage_in_words_when_read(vault: Database, path: Path) -> None:
    fill(vault, 200, 400)
    vault.close()
    pages = path.stat().st_size // PAGE_BYTES
    for page in range(pages - 8, pages):  # the rows just written, not the schema
        flip(path, page * PAGE_BYTES + 500)
    with (
        pytest.raises(Damaged, match="damaged"),
        Database.open(path, KEY, kind="vault").read() as session,
    ):
        session.connection().exec_driver_sql("SELECT sum(length(value)) FROM vault_fact")


def test_a_full_disk_is_told_and_rolled_back(vault: Database) -> None:
    put(vault, "before")
    with vault.write() as session:
        run = session.connection().exec_driver_sql
        run(f"PRAGMA max_page_count={run('PRAGMA page_count').scalar_one() + 2}")
    with pytest.raises(VaultError, match="full"):
        put(vault, "big", os.urandom(40 * PAGE_BYTES))
    assert names(vault) == {"before"}


# ---------------------------------------------------------------------- copies and keys


def test_a_copy_is_whole_and_opens_with_the_same_key(vault: Database, tmp_path: Path) -> None:
    put(vault, "x", b"hello")
    vault.copy_to(tmp_path / "copy.db")
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    copy = Database.open(tmp_path / "copy.db", KEY, kind="vault")
    assert names(copy) == {"x"}
    assert copy.problems() == []
    copy.close()
    assert (
        second_reader(tmp_path / "copy.db", KEY).execute("SELECT name FROM vault_fact").fetchall()
    )


def test_a_copy_never_overwrites(vault: Database, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("mine")
    with pytest.raises(FileExistsError):
        vault.copy_to(tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "mine"


def test_writers_go_on_while_a_copy_is_made(vault: Database, tmp_path: Path) -> None:
    fill(vault, 300, 2000)
    done = threading.Event()

    def keep_writing() -> None:
        number = 0
        while not done.is_set():
            put(vault, f"later{number}")
            number += 1

    writer = threading.Thread(target=keep_writing)
    writer.start()
    vault.copy_to(tmp_path / "copy.db")
    done.set()
    writer.join()
    assert Database(tmp_path / "copy.db", KEY, kind="vault").problems() == []


def test_rekey_changes_the_key_of_a_live_store(vault: Database, path: Path) -> None:
    put(vault, "x")
    new = ids.random_bytes(32)
    vault.rekey(new)
    assert names(vault) == {"x"}
    put(vault, "y")
    vault.close()
    with pytest.raises(WrongSecret):
        Database.open(path, KEY, kind="vault")
    again = Database.open(path, new, kind="vault")
    assert names(again) == {"x", "y"}
    again.close()


def test_readers_wait_while_the_key_changes(vault: Database) -> None:
    put(vault, "x")
    with vault.read() as session:
        session.get(VaultFact, "x")
        changer = threading.Thread(target=vault.rekey, args=(ids.random_bytes(32),))
        changer.start()
        while vault._state == "open":
            pass
        found: list[set[str]] = []
        reader = threading.Thread(target=lambda: found.append(names(vault)))
        reader.start()
        assert not found
    changer.join()
    reader.join()
    assert found == [{"x"}]


def test_a_reader_that_stays_makes_the_change_of_key_give_up(
    vault: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PAUSES", 2)
    monkeypatch.setattr(database, "PAUSE_SECONDS", 0.01)
    put(vault, "x")
    with vault.read() as session:
        session.get(VaultFact, "x")
        with pytest.raises(Conflict, match="still reading"):
            vault.rekey(ids.random_bytes(32))
        assert names(vault) == {"x"}  # new readers are let in meanwhile
    put(vault, "y")


def test_a_stale_wal_beside_a_restored_file_is_named(vault: Database, path: Path) -> None:
    put(vault, "x")
    wal = path.with_name("a.db-wal")
    shutil.copy(wal, path.with_name("stale"))
    right = ids.random_bytes(32)
    vault.rekey(right)
    vault.close()
    path.with_name("stale").rename(wal)
    with pytest.raises(WrongSecret, match="-wal"):
        Database.open(path, right, kind="vault")


# ---------------------------------------------------------------------- migrations


def schema_of(opened: Database) -> set[tuple[str, str]]:
    with opened._plain() as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
        return {(name, sql) for name, sql in rows}


def steps_of(vault: Sequence[migrations.Step]) -> dict[migrations.Kind, Sequence[migrations.Step]]:
    return {"vault": vault, "house": ()}


def add_table(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE added (a INTEGER) STRICT")


def stumble(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE half (a INTEGER) STRICT")
    raise ZeroDivisionError


@pytest.mark.parametrize("kind", ["house", "vault"])
def test_a_new_file_holds_exactly_what_the_models_say(path: Path, kind: migrations.Kind) -> None:
    opened = Database.open(path, KEY, kind=kind, create=True)
    metadata = (HouseBase if kind == "house" else VaultBase).metadata
    with opened._plain() as connection:
        for table in metadata.sorted_tables:
            rows = connection.execute(f'PRAGMA table_info("{table.name}")').fetchall()
            assert [row[1] for row in rows] == [column.name for column in table.columns]
        made = {
            name
            for name, _ in schema_of(opened)
            if not name.startswith(
                ("search", "paper_search", "paper_gone", "facet_changed", "facet_gone", "ready_")
            )
        }
    indexes = {str(index.name) for table in metadata.sorted_tables for index in table.indexes}
    assert made - indexes - {"vocabulary"} == {table.name for table in metadata.sorted_tables} - {
        "search_text"
    }
    assert opened.version() == migrations.newest(kind)
    opened.close()


def test_a_newer_schema_is_refused_untouched(vault: Database, path: Path) -> None:
    with vault.write() as session:
        session.connection().exec_driver_sql("PRAGMA user_version=9999")
    vault.close()
    before = path.read_bytes()
    with pytest.raises(NewerSchema):
        Database.open(path, KEY, kind="vault")
    assert path.read_bytes() == before


def test_an_older_file_is_copied_and_then_migrated(
    vault: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(vault, "x")
    vault.close()
    monkeypatch.setitem(migrations.STEPS, "vault", (add_table,))
    copied: list[tuple[int, set[str]]] = []

    def copy(opened: Database, version: int) -> None:
        copied.append((version, {name for name, _ in schema_of(opened)}))

    again = Database.open(path, KEY, kind="vault", before_migration=copy)
    assert names(again) == {"x"}
    assert again.version() == 2
    assert "added" in {name for name, _ in schema_of(again)}
    again.close()
    assert copied[0][0] == 1
    assert "added" not in copied[0][1]


def test_a_failing_migration_leaves_the_old_version(
    vault: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.close()
    before = schema_of(vault)
    monkeypatch.setitem(migrations.STEPS, "vault", (add_table, stumble))
    with pytest.raises(ZeroDivisionError):
        Database.open(path, KEY, kind="vault")
    assert Database(path, KEY, kind="vault").version() == 1
    assert schema_of(Database(path, KEY, kind="vault")) == before


def test_a_failing_copy_stops_the_migration(
    vault: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.close()
    monkeypatch.setitem(migrations.STEPS, "vault", (add_table,))

    def fail(opened: Database, version: int) -> None:
        raise VaultError("The disk is full.")

    with pytest.raises(VaultError, match="full"):
        Database.open(path, KEY, kind="vault", before_migration=fail)
    assert Database(path, KEY, kind="vault").version() == 1


def test_a_session_that_was_given_back_asks_nothing_more(vault: Database) -> None:
    with vault.read() as session:
        assert session.scalar(text("SELECT 1")) == 1
    with pytest.raises(UnboundExecutionError):
        session.scalar(text("SELECT 1"))
    with pytest.raises(UnboundExecutionError):
        database.rows(session, "SELECT 1")

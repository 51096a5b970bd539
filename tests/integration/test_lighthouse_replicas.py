"""The write side on PostgreSQL with a streaming replica: searched there, and it takes over."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import select

from lighthouse import catalogue
from lighthouse.ingest import ingest
from tests.fixtures_catalogue import program
from tests.fixtures_lighthouse import free_port

PROGRAMS = ("initdb", "pg_ctl", "pg_basebackup", "psql")


class Pair:
    """A primary and a standby that streams from it, on 127.0.0.1, under an ordinary account."""

    def __init__(self, folder):
        self.folder = folder
        self.ports = {"primary": free_port(), "standby": free_port()}

    def run(self, name, *words):
        account = {"user": "postgres", "group": "postgres", "extra_groups": []}
        done = subprocess.run(
            [program(name), *map(str, words)],
            cwd=self.folder,
            check=True,
            stdout=subprocess.PIPE if name == "psql" else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            **(account if os.geteuid() == 0 else {}),
        )
        return done.stdout

    def start(self, name):
        options = f"-c port={self.ports[name]} -c listen_addresses=127.0.0.1 -c fsync=off"
        options += f" -c unix_socket_directories={self.folder}"
        log = f"{self.folder}/{name}.log"
        self.run("pg_ctl", "-D", self.folder / name, "-w", "-l", log, "-o", options, "start")

    def stop(self, name):
        self.run("pg_ctl", "-D", self.folder / name, "-w", "-m", "immediate", "stop")

    def ask(self, name, query):
        where = ("-h", "127.0.0.1", "-p", self.ports[name], "-U", "postgres", "-At", "-c", query)
        return self.run("psql", *where).strip()

    def where(self, name):
        return f"postgresql://postgres@127.0.0.1:{self.ports[name]}/postgres"

    def all_replayed(self):
        """Wait until the standby has everything that is on the primary now."""
        written = self.ask("primary", "SELECT pg_current_wal_lsn()")
        reached = f"SELECT pg_last_wal_replay_lsn() >= '{written}'"
        for _ in range(1000):
            if self.ask("standby", reached) == "t":
                return
        pytest.fail("the standby does not follow")


@pytest.fixture
def pair():
    if not all(map(program, PROGRAMS)):
        pytest.skip("no PostgreSQL on this machine (Debian package: postgresql)")
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        made = Pair(Path(folder))
        made.run("initdb", "-D", made.folder / "primary", "-U", "postgres", "-A", "trust", "-N")
        running = ["primary"]
        made.start("primary")
        try:
            source = ("-h", "127.0.0.1", "-p", made.ports["primary"], "-U", "postgres")
            made.run(
                "pg_basebackup", *source, "-D", made.folder / "standby",
                "-R", "-N", "--checkpoint=fast",
            )  # fmt: skip
            made.start("standby")
            running.append("standby")
            made.running = running
            yield made
        finally:
            for name in running:
                made.stop(name)


def lists(folder, *rows):
    folder.mkdir()
    made = [{"URL": url, "OrganizationName": name} for name, url in rows]
    (folder / "list.json").write_text(json.dumps({"Endpoints": made}))
    return folder


def command(*words, typed=""):
    """Run the command as a process of its own: its connections end with it."""
    whole = [sys.executable, "-m", "lighthouse", *map(str, words)]
    return subprocess.run(whole, input=typed, capture_output=True, text=True, check=False)


def found(where, typed):
    done = command("search", "--catalogue", where, typed=typed + "\n")
    assert done.returncode == 0, done.stderr
    return [hit["name"] for hit in json.loads(done.stdout)["hits"]]


def rows_of(engine):
    with engine.connect() as connection:
        return {
            table.name: sorted(map(tuple, connection.execute(select(table))))
            for table in catalogue.metadata.sorted_tables
        }


def test_replica_has_every_row_answers_without_the_primary_and_takes_over(pair, tmp_path):
    writer = catalogue.connect(pair.where("primary"))
    ingest([lists(tmp_path / "one", ("Lakeside Clinic", "https://a.example.org/r4"))], writer)
    pair.all_replayed()
    reader = catalogue.connect(pair.where("standby"))

    assert pair.ask("standby", "SELECT pg_is_in_recovery()") == "t"
    assert rows_of(reader) == rows_of(writer)

    writer.dispose()
    pair.stop("primary")
    pair.running.remove("primary")
    assert found(pair.where("standby"), "lakeside") == ["Lakeside Clinic"]

    pair.run("pg_ctl", "-D", pair.folder / "standby", "-w", "promote")
    ingest([lists(tmp_path / "two", ("Hillside Clinic", "https://b.example.net/r4"))], reader)
    reader.dispose()
    assert found(pair.where("standby"), "hillside") == ["Hillside Clinic"]
    assert found(pair.where("standby"), "lakeside") == ["Lakeside Clinic"]


def test_writing_to_a_replica_is_told_in_a_sentence(pair, tmp_path):
    catalogue.connect(pair.where("primary")).dispose()
    pair.all_replayed()
    folder = lists(tmp_path / "one", ("Lakeside Clinic", "https://a.example.org/r4"))

    done = command("ingest", "--from", folder, "--catalogue", pair.where("standby"))

    assert done.returncode == 1
    assert done.stderr == "Error: The catalogue could not be read or written.\n"

"""Empty catalogues on both databases, and a web server on loopback that answers as it is told."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from lighthouse import catalogue
from tests.fakes.list_server import ListServer, running
from tests.fixtures_lighthouse import Lighthouse, of_today, people_type


def program(name: str) -> str | None:
    """Find a program of PostgreSQL on the path, or where Debian keeps its versions."""
    kept = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name) or next((str(path) for path in kept), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL of our own on a socket in a folder of its own; yields its URL, less the name.

    It runs under an ordinary account, because it refuses to run as root, and it sorts text by
    language, not by byte, as most installations do.
    """
    programs = {name: program(name) for name in ("initdb", "pg_ctl")}
    if None in programs.values():
        pytest.skip("no PostgreSQL on this machine (Debian package: postgresql)")
    as_root = os.geteuid() == 0
    # pytest's own folders are closed to other accounts.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        if as_root:
            shutil.chown(folder, "postgres", "postgres")

        def run(name: str, *words: str) -> None:
            account = {"user": "postgres", "group": "postgres", "extra_groups": []}
            subprocess.run(
                [str(programs[name]), "-D", f"{folder}/data", *words],
                check=True,
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                **(account if as_root else {}),
            )

        sorted_by_language = ("--locale-provider=icu", "--icu-locale=en-US")
        run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N", *sorted_by_language)
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://postgres@/{{}}?host={folder}"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


@pytest.fixture(scope="session")
def empty_catalogue(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], tuple[Engine, str]]]:
    """Make empty catalogues: `empty_catalogue("sqlite" or "postgresql")` -> engine and address."""
    engines: list[Engine] = []
    number = count()

    def make(kind: str) -> tuple[Engine, str]:
        if kind == "sqlite":
            where = str(tmp_path_factory.mktemp("lighthouse") / "catalogue.db")
        else:
            address = request.getfixturevalue("postgres")
            name = f"catalogue{next(number)}"
            admin = create_engine(address.format("postgres"), isolation_level="AUTOCOMMIT")
            with admin.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))
            admin.dispose()
            where = address.format(name)
        engines.append(catalogue.connect(where))
        return engines[-1], where

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(
    request: pytest.FixtureRequest, empty_catalogue: Callable[[str], tuple[Engine, str]]
) -> Engine:
    """An empty catalogue; each test that asks for it runs on both databases."""
    return empty_catalogue(request.param)[0]


@pytest.fixture
def publisher(tmp_path: Path) -> Lighthouse:
    """A lighthouse of today that has published one snapshot of four organisations."""
    made, now = of_today(tmp_path / "published")
    made.publish(people_type(), at=now)
    return made


@pytest.fixture
def list_server() -> Iterator[ListServer]:
    """A web server on loopback that answers as the test tells it."""
    with running() as server:
        yield server


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """Every name looked up and every address dialled by this process, seen at the socket.

    Not an audit hook: one in Python can never be taken off again, and under coverage it makes
    CPython refuse to start a thread while another one starts (`sys.settrace` is audited too).
    """
    seen: list[tuple[str, object]] = []
    look_up, dial = socket.getaddrinfo, socket.socket.connect

    def heard_look_up(host: Any, *rest: Any, **named: Any) -> Any:
        seen.append(("socket.getaddrinfo", host))
        return look_up(host, *rest, **named)

    def heard_dial(line: socket.socket, address: Any) -> None:
        seen.append(("socket.connect", address))
        dial(line, address)

    monkeypatch.setattr(socket, "getaddrinfo", heard_look_up)
    monkeypatch.setattr(socket.socket, "connect", heard_dial)
    return seen

"""Pulls once in a process of its own and prints what came of it and how much memory that took.

    python -m tests.fakes.puller BASE_URL         prints one JSON object

The vault is real and thrown away afterwards. Waits are short; sizes are those of the product.
"""

import json
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select

from phr import clock, memory, pull
from phr.bench import house
from phr.connectors import rest
from phr.fhir.record import Selection
from phr.http import DEFAULT, Http
from phr.net import Guard
from phr.oauth import Client, Credentials, Endpoint
from phr.store import connections, records
from phr.store.models import Connection, ConnectionState, Quarantined
from phr.store.vault import Vault
from tests.fakes.hospital import PATIENT

MOST_SHOWN = 1 << 20
QUICK = replace(DEFAULT, connect=2.0, first_byte=1.5, idle=1.5, total=20.0, grace=1.0)


def connect(vault: Vault, base: str) -> int:
    """Add an authorised connection and return its id."""
    now = clock.now()
    origin = f"http://{urlsplit(base).netloc}"
    with vault.write() as session:
        connection_id = connections.add(
            session,
            kind="smart",
            name="Fault hospital",
            base_url=base,
            endpoint=Endpoint(base, origin + "/auth", origin + "/token").to_json(),
            client=Client("app", "http://127.0.0.1/cb").to_json(),
            state=ConnectionState.ACTIVE,
            now=now,
        )
        row = session.get_one(Connection, connection_id)
        row.credentials = Credentials("secret-token", now, patient=PATIENT).to_json()
        row.remote_patient = PATIENT
    return connection_id


def shown(body: bytes) -> str:
    """Return the bytes as text, one character each; of a huge body only the beginning."""
    return body[:MOST_SHOWN].decode("latin-1")


def report(vault: Vault, connection_id: int) -> dict[str, Any]:
    with vault.read() as session:
        last = connections.last_pull(session, connection_id)
        lines = connections.lines(session, last.id)
        row = connections.get(session, connection_id)
        kept = records.select(session, vault, Selection())
        aside = session.scalars(select(Quarantined)).all()
        return {
            "ledger": {
                line.chain: {
                    "type": line.type,
                    "state": line.state,
                    "got": line.got,
                    "pages": line.pages,
                    "quarantined": line.quarantined,
                    "sentence": line.sentence,
                }
                for line in lines
            },
            "connection": row.state,
            "bodies": {f"{one.type}/{one.remote_id}": shown(one.body) for one in kept},
            "quarantined": [one.reason for one in aside],
        }


def figure(name: str) -> int:
    """Return a figure of /proc/self/status in bytes; VmHWM is the peak, VmRSS what is held now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def hurry() -> None:
    """Shorten the connector's pauses and patience; its sizes stay."""
    rest.Conversation.__init__.__defaults__ = (lambda _attempt: 0.01,)
    rest.Conversation.get.__kwdefaults__["limits"] = QUICK
    rest.DEFAULT = QUICK


def main() -> None:
    base = sys.argv[1]
    memory.give_back_early()  # as `phr` does when it starts
    hurry()
    http = Http(Guard([urlsplit(base).netloc, *sys.argv[2:]]), limits=QUICK)
    http._transports()  # the libraries of a first request are no growth of a pull
    with house.opened() as vault:
        connection_id = connect(vault, base)
        before = figure("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here (proc(5))
        state = pull.run(vault, connection_id, http=http, now=clock.now())
        grown = figure("VmHWM") - before
        spent = resource.getrusage(resource.RUSAGE_SELF)
        found = {"state": state, "grown": grown, "cpu": spent.ru_utime + spent.ru_stime}
        sys.stdout.write(json.dumps(found | report(vault, connection_id)))
    http.close()


if __name__ == "__main__":
    main()

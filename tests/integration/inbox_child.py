"""What `test_inbox_kill` kills: a process that receives and accepts until it is dead.

Acknowledged is what stands on standard output: it is written after the commit returned.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from phr import clock
from phr.sharing import gate, inbox
from phr.sharing import provision as policy
from phr.sharing.gate import Terms
from phr.sharing.inbox import Sent
from phr.sharing.provision import READING, Action, Provision
from phr.store.vault import Vault
from tests.fixtures_sharing import ADA
from tests.fixtures_store import Home


def standing(vault: Vault, grant_id: str) -> Callable[[], Terms]:
    """Return what the gate says of a grant that stands and lets its holder send."""
    rules = policy.preset("primary", now=clock.now()).rules
    may_send = Provision(rules, actions=READING | {Action.CONTRIBUTE})
    terms = gate.draft_terms(vault, may_send, shared_by="Ada", now=clock.now())
    return lambda: replace(terms, grant_id=grant_id)


def at_work(folder: Path, vault_id: str, grant_id: str, first: int) -> None:
    """Receive a note and a file by turns and accept every second one, telling of each."""
    inbox.MOST_HOURLY = inbox.MOST_WAITING = inbox.MOST_EVER = 10**6  # type: ignore[misc]
    home = Home(folder)
    home.vaults.open_by_themselves()
    vault = home.vaults.get(vault_id)
    stands = standing(vault, grant_id)
    number = first
    while True:
        content = b"%PDF-1.4 " + str(number).encode() if number % 2 else str(number).encode()
        sent = Sent(content, title=f"n{number}", is_note=not number % 2)
        held = inbox.receive(vault, stands, sent, handle_id=None, now=clock.now())
        os.write(1, f"received {number}\n".encode())
        if number % 4 < 2:
            inbox.accept(vault, held.id, ADA, now=clock.now())
            os.write(1, f"accepted {number}\n".encode())
        number += 1


if __name__ == "__main__":
    at_work(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))

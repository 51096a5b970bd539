"""kill -9 between receiving and accepting: what was acknowledged is there once, nothing by half."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from phr.fhir.record import Selection
from phr.sharing import inbox
from phr.store import audit, records
from phr.store.models import ArrivalKind, ArrivalState
from phr.store.vault import Vault
from tests.fixtures_sharing import share_in
from tests.fixtures_store import Home

KILLS = int(os.environ.get("HOMEPORT_INBOX_KILLS", "6"))
SEED = 20261122


def killed(folder: Path, vault_id: str, grant_id: str, first: int, after: int) -> list[str]:
    """Start a child, kill it when it has acknowledged `after` things, and return all of these."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.integration.inbox_child", str(folder), vault_id]
    with subprocess.Popen(
        [*command, grant_id, str(first)], stdout=subprocess.PIPE, cwd=root, text=True
    ) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(after)]
        child.send_signal(signal.SIGKILL)
        said += child.stdout.readlines()
    return [line.strip() for line in said if line.endswith("\n")]


def check(vault: Vault, acknowledged: list[str]) -> None:
    with vault.read() as session:
        held = inbox.listed(session, *ArrivalState, limit=10**6)
        found = records.select(session, vault, Selection(types=("DocumentReference",)))
        files = {
            one.remote_id: [each.hash for each in records.attachments(session, one.pk)]
            for one in found
        }
        assert audit.verify(session, vault) == []
    times = Counter(one.title for one in held)
    by_title = {one.title: one for one in held}
    for line in acknowledged:
        what, number = line.split()
        assert times[f"n{number}"] == 1, line
        if what == "accepted":
            assert by_title[f"n{number}"].state == ArrivalState.ACCEPTED, line
    kept = Counter(one.remote_id for one in found)
    accepted = {one.id for one in held if one.state == ArrivalState.ACCEPTED}
    assert set(kept) == accepted  # never by half
    assert set(kept.values()) <= {1}
    for one in held:
        if one.state == ArrivalState.ACCEPTED and one.kind == ArrivalKind.FILE:
            assert len(files[one.id]) == 1
            assert all(files[one.id])


def test_what_was_acknowledged_is_kept_exactly_once(tmp_path: Path) -> None:
    home, share = share_in(tmp_path)
    with home:
        vault_id, grant_id = share.vault.id, share.link().grant_id
    chance = random.Random(SEED)  # noqa: S311 - moments of a test
    acknowledged: list[str] = []
    for trial in range(KILLS):
        acknowledged += killed(
            tmp_path, vault_id, grant_id, (trial + 1) * 1000, chance.randint(1, 12)
        )
        with Home(tmp_path) as again:
            again.vaults.open_by_themselves()
            check(again.vaults.get(vault_id), acknowledged)
    assert len(acknowledged) >= KILLS

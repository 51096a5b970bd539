"""Killed while it sends: each version of a record goes once, or is shown as uncertain, never twice.

HOMEPORT_MAIL_KILLS says how often it is killed (10).
"""

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import select

from phr import clock, ids, push
from phr.net import Guard
from phr.sharing import outbox, postbox
from phr.sharing.channels import message
from phr.sharing.channels.direct import Direct, Outfit
from phr.sharing.channels.discovery import Places
from phr.sharing.channels.submission import Server
from phr.sharing.grants import StepUp
from phr.store.models import Carried, DeliveryState, Direction, MailMode
from tests.fixtures_direct import Authority, Mailbox, cert_line, der, key, knot, mailbox
from tests.fixtures_sharing import ADA, keep_more, lab, recent, share_in
from tests.fixtures_store import Home

DOCTOR = "dr.pell@direct.clinic.test"
KILLS = int(os.environ.get("HOMEPORT_MAIL_KILLS", "10"))


@dataclass
class Deadly(Mailbox):
    """A mailbox that has whoever sends to it killed, before it answers or a moment later."""

    victim: "subprocess.Popen[str] | None" = None
    chance: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311 - which moment, not a secret

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        if self.victim is not None:
            victim, self.victim = self.victim, None
            wait = self.chance.choice((0.0, 0.0005, 0.002, 0.006, 0.02))
            if wait:
                threading.Timer(wait, victim.send_signal, (signal.SIGKILL,)).start()
            else:
                victim.send_signal(signal.SIGKILL)
                victim.wait()
        return await super().handle_DATA(server, session, envelope)


def run(folder: Path, vault_id: str, box: Deadly, names: int, *, kill: bool) -> None:
    command = [sys.executable, "-m", "tests.integration.direct_child", str(folder), vault_id]
    process = subprocess.Popen(
        [*command, str(box.port), str(names)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "sending\n"
        box.victim = process if kill else None
        process.wait(120)
    box.victim = None


@pytest.mark.slow
def test_each_version_goes_once_or_is_uncertain_however_often_it_is_killed(tmp_path: Path) -> None:
    root = Authority("Clinic root")
    theirs = root.issue(DOCTOR, number=1)
    folder = tmp_path / "data"
    home, share = share_in(folder)
    vault, now = share.vault, clock.now()
    vault_id = vault.id
    keep_more(vault, 1, [lab(f"n{number}", recent(number + 1)) for number in range(KILLS * 2 + 5)])
    with vault.write() as session:
        wanted = postbox.Wanted("juniper@home.test", MailMode.STA, "mail.home.test", 25)
        postbox.set_up(session, vault, wanted, ADA, now=now)
        pem = root.certificate.public_bytes(Encoding.PEM)
        postbox.add_anchor(session, vault, pem, Direction.OUT, ADA, now=now)
    channel = Direct(
        Outfit(
            "juniper@home.test", True, None, (), (), Places(Guard(), lambda _: b""), Server("x", 1)
        )
    )
    grant_id = push.start(
        vault,
        share.wish(),
        channel=channel,
        address=DOCTOR,
        standing=False,
        grant_id=ids.new_id(),
        step_up=StepUp("ada", "password", now),
        shown="x",
        actor=ADA,
        now=now,
    )
    planned = push.plan_due(vault, budget=400, now=now)
    assert planned > KILLS
    home.close()
    line = cert_line("dr.pell.direct.clinic.test", der(theirs))
    with (
        knot(tmp_path / "names", "clinic.test", line) as (_, names),
        mailbox(Deadly()) as box,
    ):
        assert isinstance(box, Deadly)
        for _ in range(KILLS):
            run(folder, vault_id, box, names, kill=True)
        run(folder, vault_id, box, names, kill=False)
    came = Counter(
        message.unseal(
            one.content,
            envelope_from=one.mail_from,
            envelope_to=one.rcpt_tos,
            keys=[(theirs, key(1))],
        ).message_id
        for one in box.got
    )
    again = Home(folder)
    again.vaults.open_by_themselves()
    with again.vaults.get(vault_id).read() as session:
        deliveries = outbox.of_grant(session, grant_id)
        carried = session.execute(select(Carried.record_pk, Carried.version)).all()
    again.close()
    assert len(carried) == len(set(carried))  # no version in two messages
    assert max(came.values()) == 1  # no message twice
    states = {str(each.message_id): each.state for each in deliveries}
    assert set(states.values()) <= {DeliveryState.SENT, DeliveryState.UNCERTAIN}
    for message_id, state in states.items():  # what is said to be sent did come
        assert came[message_id] == 1 or state == DeliveryState.UNCERTAIN
    uncertain = sum(state == DeliveryState.UNCERTAIN for state in states.values())
    assert uncertain <= KILLS
    assert len(states) == planned

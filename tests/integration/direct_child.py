"""A program that sends what waits for a Direct address, to be killed while it does.

Arguments: data folder, vault id, port of the mail server, port of the name server. Not a test:
`test_direct_kill` runs it.
"""

import sys
from pathlib import Path

from phr import clock, push
from phr.net import Guard
from phr.sharing import outbox, postbox
from phr.sharing.channels.direct import Direct, Outfit
from phr.sharing.channels.discovery import Places
from phr.sharing.channels.submission import Server
from phr.store.models import Direction
from tests.fixtures_store import Home


def main(folder: str, vault_id: str, mail: str, names: str) -> None:
    """Do at the start what an appliance does, and then send."""
    home = Home(Path(folder))
    home.vaults.open_by_themselves()
    vault = home.vaults.get(vault_id)
    with vault.read() as session:
        box = postbox.get(session)
        assert box is not None
        outfit = Outfit(
            address=box.address,
            sealed=True,
            own=postbox.current(session),
            chain=postbox.chain(session),
            anchors=postbox.anchors(session, Direction.OUT),
            places=Places(Guard([f"127.0.0.1:{mail}"]), lambda _: b"", [("127.0.0.1", int(names))]),
            server=Server("127.0.0.1", int(mail), encrypt=False),
        )
    channels = {"direct": Direct(outfit)}
    with vault.write() as session:
        outbox.recover(session, vault, channels, now=clock.now())
    sys.stdout.write("sending\n")
    sys.stdout.flush()
    push.run_due(vault, channels=channels, public_url="http://127.0.0.1:8081", now=clock.now())
    home.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

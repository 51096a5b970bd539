"""A program that ends a grant as the patient's click does, and is killed in the same breath.

Arguments: data folder, vault id, grant id. Not a test: `test_revocation` runs it.
"""

import os
import signal
import sys
from pathlib import Path

from phr import clock
from phr.sharing import gate
from tests.fixtures_store import Home


def main(folder: str, vault_id: str, grant_id: str) -> None:
    """End the grant, then die without closing anything."""
    home = Home(Path(folder))
    home.vaults.open_by_themselves()
    vault = home.vaults.get(vault_id)
    gate.end(vault, grant_id, "patient", {"kind": "account"}, now=clock.now())
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])

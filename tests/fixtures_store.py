"""A real house on a real disk for tests: cheap keys, one call to open, one to die and come back."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from phr.store import accounts, slots
from phr.store.house import House
from phr.store.models import Recipient
from phr.store.vault import Vault, Vaults

PASSWORD = "four words nobody guesses"
OTHER = "five words that nobody guesses"
CHEAP = slots.FLOOR


class Home:
    """A data folder with House and Vaults. `reopen` is a restart of the process."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self._begin()

    def _begin(self) -> None:
        self.house = House.open(self.data)
        try:
            self.vaults = Vaults(self.house)
        except BaseException:  # as Appliance.open does
            self.house.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        try:
            self.vaults.close()
        finally:
            self.house.close()

    def reopen(self) -> None:
        self.close()
        self._begin()

    def account(self, name: str = "Ada", password: str = PASSWORD) -> str:
        return accounts.create_account(self.house, name, password, cost=CHEAP)

    def patient(self, account_id: str, name: str = "Ada", *, by_itself: bool = False) -> str:
        return accounts.create_patient(
            self.house, self.vaults, name=name, account_id=account_id, opens_by_itself=by_itself
        )

    def sign_in(
        self, name: str = "Ada", password: str = PASSWORD, **more: Any
    ) -> accounts.SignedIn:
        return accounts.sign_in(self.house, self.vaults, name, password, **more)


def write_down(vault: Vault, name: str) -> None:
    """Leave something in a vault that a later read can look for."""
    from phr import clock

    with vault.write() as session:
        session.add(Recipient(id=name, name=name, kind="link", created_at=clock.now()))


def written(vault: Vault) -> set[str]:
    with vault.read() as session:
        rows = session.connection().exec_driver_sql("SELECT id FROM recipient")
        return {row[0] for row in rows}

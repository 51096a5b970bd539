"""The composition root: settings, house, vaults, HTTP, jobs and demo hospital, opened in order.

Nothing is decided here; each part decides in its own room. Listening is in `phr.cli.serve`.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from phr import clock, ids, logs, net
from phr.http import Http
from phr.settings import Settings
from phr.sharing import gate
from phr.sharing.parked import Parking
from phr.sharing.proof import KeySets
from phr.store import accounts, index
from phr.store.database import assert_build
from phr.store.house import House, harden_process
from phr.store.vault import Vault, Vaults

if TYPE_CHECKING:
    from phr.catalogue import Catalogue
    from phr.demo import Demo
    from phr.jobs import Jobs
    from phr.tls import Tls

SETUP_HOURS = 24  # a set-up code nobody used; a restart prints a new one
_SIGNS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # 32, without 0 O 1 I: people read and type it
_CODE_SIGNS = 12  # 60 bits


@dataclass(slots=True)
class Appliance:
    """Everything one running Homeport consists of. Made by `open`, ended by `close`."""

    settings: Settings
    house: House
    vaults: Vaults
    http: Http
    tls: "Tls | None" = None
    jobs: "Jobs | None" = None  # from `make_jobs` on; they begin with `jobs.start`
    demo: "Demo | None" = None
    parking: Parking = field(default_factory=Parking)  # what apps asked, until it is answered
    launches: Parking = field(default_factory=Parking)  # for whom an app was opened from here
    _key_sets: KeySets | None = field(default=None, repr=False)
    _setup: "_SetUp | None" = field(default=None, repr=False)
    _catalogue: "Catalogue | None" = field(default=None, repr=False)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Take the data folder and open what opens by itself. Nothing listens, no job runs yet.

        Raises DataLocked when another process holds the folder, SettingsError when it cannot be
        used, VaultError when the start-up assertions of the store do not hold.
        """
        logs.configure(settings.log_level)
        harden_process()
        assert_build()
        house = House.open(settings.data, key_file=settings.house_key_file)
        try:
            certificate = _certificate(settings, house.key)
            vaults = Vaults(house)
            vaults.on_open += [index.ensure, _reconcile]
            vaults.open_by_themselves()
        except BaseException:
            house.close()
            raise
        guard = net.Guard(settings.allowed_hosts, name_servers=settings.name_servers)
        return cls(settings, house, vaults, Http(guard), certificate)

    def make_jobs(self) -> None:
        """Make the jobs, which `phr.cli.serve` begins."""
        from phr.jobs import Jobs, Plan  # noqa: PLC0415 - the first page waits for no hospital

        plan = Plan(
            outbox=self.settings.outbox_path,
            public_url=self.settings.public_url,
            full_days=self.settings.pull_full_days,
            backup_hour=self.settings.backup_hour,
            backup_keep=self.settings.backup_keep,
            mail_listen=self.settings.mail_listen,
            tend_catalogue=self._tend_catalogue,
        )
        self.jobs = Jobs(self.house, self.vaults, self.http, plan)

    def start_demo(self) -> None:
        """Start the demo hospital on this machine, unless it runs already; pulls may reach it."""
        if self.demo is None:
            from phr import demo  # noqa: PLC0415 - who never tries the demo never loads it

            self.demo = demo.start(self.settings)
            self.http.guard.allow(self.demo.address)

    def stop_demo(self) -> None:
        """Stop the demo hospital, if it runs."""
        if self.demo is not None:
            self.demo.close()
            self.demo = None

    def close(self) -> None:
        """Stop what runs, close every file, give the data folder back. Safe to call twice."""
        if self.jobs is not None:
            self.jobs.stop()
            self.jobs = None
        self.stop_demo()
        if self._catalogue is not None:
            self._catalogue.close()
        self.http.close()
        self.vaults.close()
        self.house.close()

    def vault(self, patient_id: str) -> Vault:
        """Return a patient's open vault; raises Sealed or NotFound."""
        return self.vaults.get(patient_id)

    @property
    def key_sets(self) -> KeySets:
        """The published keys of apps, as far as they were asked for."""
        if self._key_sets is None:
            self._key_sets = KeySets(self.http)
        return self._key_sets

    @property
    def catalogue(self) -> "Catalogue":
        """The catalogue of hospitals; loaded when somebody looks for one."""
        if self._catalogue is None:
            from phr import catalogue  # noqa: PLC0415 - most starts never look for a hospital

            lighthouses = catalogue.configured(self.settings.lighthouses)
            self._catalogue = catalogue.Catalogue(self.settings.catalogue_path, lighthouses)
        return self._catalogue

    def _tend_catalogue(self) -> None:
        """Ask the configured lighthouses when it is time; without one nobody is ever asked."""
        if self.settings.lighthouses:
            self.catalogue.fetch_due(self.http, clock.now())
        if self._catalogue is not None:
            self._catalogue.rest(clock.now())

    def is_ready(self) -> bool:
        """Tell whether every record can be used: none is sealed (or being migrated)."""
        return set(self.vaults.ids()) <= set(self.vaults.open_ids())

    # ------------------------------------------------------------------ the first account

    def needs_setup(self) -> bool:
        """Tell whether nobody has an account here yet."""
        return not accounts.list_accounts(self.house)

    def new_setup_code(self) -> str | None:
        """Make the one-time code that protects the set-up page; None once an account exists."""
        if not self.needs_setup():
            return None
        code = self.settings.setup_code or _new_code()
        ends_at = clock.now() + timedelta(hours=SETUP_HOURS)
        self._setup = _SetUp(ids.fingerprint(_normal(code)), ends_at)
        return code

    def setup_code_fits(self, given: str) -> bool:
        """Compare what was typed, in constant time. Tries are limited by the caller."""
        if self._setup is None or clock.now() >= self._setup.ends_at or not self.needs_setup():
            return False
        return ids.same(ids.fingerprint(_normal(given)), self._setup.fingerprint)

    def end_setup(self) -> None:
        """Forget the set-up code: the first account exists."""
        self._setup = None


def _certificate(settings: Settings, house_key: bytes) -> "Tls | None":
    if settings.tls != "own":
        return None
    from phr import tls  # noqa: PLC0415 - reading and making certificates is much to load

    return tls.prepare(settings, house_key)


def _reconcile(vault: Vault) -> None:
    """Bring what house.db remembers of ended grants into a vault that was closed meanwhile."""
    gate.reconcile(vault, now=clock.now())


@dataclass(frozen=True, slots=True)
class _SetUp:
    """The one-time code of set-up, as its fingerprint."""

    fingerprint: bytes
    ends_at: datetime


def _new_code() -> str:
    signs = "".join(_SIGNS[byte % len(_SIGNS)] for byte in ids.random_bytes(_CODE_SIGNS))
    return "-".join(signs[at : at + 4] for at in range(0, _CODE_SIGNS, 4))


def _normal(code: str) -> str:
    return "".join(sign for sign in code.upper() if sign.isalnum())

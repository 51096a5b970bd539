"""What this Homeport sees of itself, in sentences: for `phr check` and the administrator's page.

It looks and never mends. No health data, no names of people.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from phr import __version__, clock
from phr.appliance import Appliance
from phr.chart.plain import counted, size_words
from phr.settings import is_loopback
from phr.store import backup
from phr.store.house import file_system_of

_LEAST_FREE = 1 << 30  # bytes; a night's backup and a rekey both need a copy
_BUILT = datetime(2025, 1, 1, tzinfo=UTC)  # a clock before this was never set


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


SUBJECTS = {
    "version": "This Homeport",
    "home": "Address of the household",
    "public": "Address for doctors",
    "tls": "Encryption on the way",
    "clock": "Clock",
    "disk": "Room on the disk",
    "file system": "File system",
    "rights": "Who may read the files",
    "user id": "Running as root",
    "backups": "Backups",
    "records": "Records",
    "store": "Database",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and what to say; `name` never changes (docs/cli.md)."""

    name: str
    level: Level
    sentence: str

    @property
    def subject(self) -> str:
        """What was looked at, in words."""
        return SUBJECTS[self.name]


def look(appliance: Appliance) -> list[Finding]:
    """Look at everything and return the findings in the order a person should read them."""
    return [finding for part in _PARTS for finding in part(appliance)]


def _addresses(appliance: Appliance) -> Iterator[Finding]:
    settings = appliance.settings
    yield Finding("version", Level.OK, f"Homeport {__version__}, data in {settings.data}.")
    where = f"{settings.host} port {settings.port}"
    yield Finding("home", Level.OK, f"The household reaches {settings.home_url} ({where}).")
    where = f"{settings.public_host} port {settings.public_port}"
    if not settings.public_is_safe:
        sentence = f"{settings.public_url} is not https, so no link can be made ({where})."
        yield Finding("public", Level.WARNING, sentence)
    elif not settings.public_is_https:
        sentence = f"{settings.public_url} is this machine only: nobody else can open a link."
        yield Finding("public", Level.WARNING, sentence)
    else:
        sentence = f"Doctors reach {settings.public_url} ({where})."
        yield Finding("public", Level.OK, sentence)


def _transport(appliance: Appliance) -> Iterator[Finding]:
    settings = appliance.settings
    if settings.home_is_plain_lan:
        sentence = "Pages travel readable through your network (PHR_INSECURE=1)."
        yield Finding("tls", Level.PROBLEM, sentence)
    elif settings.tls == "proxy":
        proxies = ", ".join(settings.trusted_proxies)
        yield Finding("tls", Level.OK, f"Your reverse proxy ({proxies}) ends TLS.")
    elif settings.tls == "own":
        yield _own_certificate(appliance)
    elif is_loopback(settings.host):
        yield Finding("tls", Level.OK, "Not needed: only this machine is listened to.")


def _own_certificate(appliance: Appliance) -> Finding:
    from phr import tls  # noqa: PLC0415 - reading and making certificates is much to load

    days = tls.expires_in_days(appliance.settings)
    if days is None or days < 0:
        return Finding("tls", Level.PROBLEM, "The certificate is missing or over.")
    level = Level.WARNING if days < tls.RENEW_DAYS // 2 else Level.OK
    authority = tls.authority(appliance.settings)
    known = f" Authority: {authority.fingerprint}." if authority else ""
    return Finding("tls", level, f"The certificate is valid for {days} more days.{known}")


def _clock(appliance: Appliance) -> Iterator[Finding]:
    now = clock.now()
    newest = max((at for _, at in _backups(appliance)), default=_BUILT)
    if now < _BUILT or now < newest - timedelta(minutes=5):
        sentence = f"The clock says {now:%Y-%m-%d %H:%M} UTC, which is in the past. Set it."
        yield Finding("clock", Level.PROBLEM, sentence)
    else:
        yield Finding("clock", Level.OK, f"The clock says {now:%Y-%m-%d %H:%M} UTC.")


def _disk(appliance: Appliance) -> Iterator[Finding]:
    data = appliance.settings.data
    free = shutil.disk_usage(data).free
    used = sum(file.stat().st_size for file in (data / "vaults").glob("*") if file.is_file())
    level = Level.WARNING if free < _LEAST_FREE + 2 * used else Level.OK
    sentence = f"{size_words(free)} free. The records take {size_words(used)}."
    yield Finding("disk", level, sentence)
    kind = file_system_of(data)
    said = (
        f"The data folder lies on {kind}." if kind else "Of which kind it is cannot be told here."
    )
    yield Finding("file system", Level.OK, said)


def _rights(appliance: Appliance) -> Iterator[Finding]:
    settings = appliance.settings
    open_ones = [
        path
        for path in (settings.data, settings.house_key_path, settings.data / "house.db")
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    if open_ones:
        named = ", ".join(str(path) for path in open_ones)
        sentence = f"Other people of this machine may read {named}. Take their rights away."
        yield Finding("rights", Level.PROBLEM, sentence)
    else:
        sentence = f"Only who Homeport runs as (user id {os.geteuid()}) can read the data folder."
        yield Finding("rights", Level.OK, sentence)
    if os.geteuid() == 0:
        sentence = "Homeport runs as root. It does not need to; give it a user of its own."
        yield Finding("user id", Level.WARNING, sentence)


def _house_backups(appliance: Appliance) -> Iterator[Finding]:
    made = _backups(appliance)
    every = appliance.vaults.ids()
    if not every:
        yield Finding("backups", Level.OK, "There is no record to back up yet.")
        return
    newest = max((at for _, at in made), default=None)
    if newest is None:
        sentence = f"No backup has been made yet of {counted(len(every), 'record')}."
        yield Finding("backups", Level.WARNING, sentence)
        return
    without = len(set(every) - {vault_id for vault_id, _ in made})
    late = clock.now() - newest > timedelta(days=2)
    sentence = f"{counted(len(made), 'backup')}, the newest of {newest:%Y-%m-%d %H:%M} UTC."
    if without:
        verb = "has" if without == 1 else "have"
        sentence += f" {counted(without, 'record')} {verb} no backup yet."
    yield Finding("backups", Level.WARNING if late or without else Level.OK, sentence)


def _backups(appliance: Appliance) -> list[tuple[str, datetime]]:
    """Return of which record each readable backup is, and when it was made."""
    every = (one.manifest for one in backup.list_backups(appliance.house))
    return [(found.vault_id, found.made_at) for found in every if found is not None]


def _records(appliance: Appliance) -> Iterator[Finding]:
    every = appliance.vaults.ids()
    sealed = len(set(every) - set(appliance.vaults.open_ids()))
    whole = counted(len(every), "person's record", "people's records") if every else "No record yet"
    shut = f", {sealed} of them sealed until a member signs in" if sealed else ""
    yield Finding("records", Level.OK, f"{whole}{shut}.")


def _versions(appliance: Appliance) -> Iterator[Finding]:
    with appliance.house.read() as session:
        run = session.connection().exec_driver_sql
        sqlite = run("SELECT sqlite_version()").scalar()
        cipher = run("PRAGMA cipher_version").scalar()
    sentence = f"SQLCipher {cipher}, SQLite {sqlite}."
    yield Finding("store", Level.OK, sentence)


_PARTS: tuple[Callable[[Appliance], Iterator[Finding]], ...] = (
    _addresses,
    _transport,
    _clock,
    _disk,
    _rights,
    _house_backups,
    _records,
    _versions,
)

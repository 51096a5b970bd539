"""People and their keys: accounts, sign-in, passwords, recovery kit, second factor, patients.

Who is a member of a patient's record is `members`; sessions of browsers are `sessions`.
"""

import logging
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session as Rows

from phr import clock, ids, logs
from phr.errors import Conflict, InvalidInput, NotFound, PhrError, TotpNeeded, WrongSecret
from phr.store import audit, limits, slots
from phr.store.database import Priority, rows
from phr.store.house import House, put_setting
from phr.store.limits import Limit
from phr.store.models import (
    Account,
    AccountState,
    MemberRole,
    Membership,
    Patient,
    PatientState,
    Setting,
)
from phr.store.models import Session as Browser
from phr.store.slots import Cost, KeyPair
from phr.store.vault import Founder, Loan, Vaults, is_made, keep_person

log = logging.getLogger(__name__)

LEAST_LETTERS, MOST_LETTERS, LEAST_DIFFERENT = 12, 1024, 5
LONGEST_NAME = 100
COLOURS = range(1, 5)
STEP_SECONDS = 30  # RFC 6238 §4
ENROL_MINUTES = timedelta(minutes=15)
KIT_WAITS = "kit_waits"  # the house's fact: the account whose kit of set-up is not confirmed yet
COMMON = frozenset(  # of those that pass the other rules
    {
        "123456789abc",
        "password1234",
        "password12345",
        "passw0rd1234",
        "qwertyuiop123",
        "qwerty123456",
        "administrator",
        "changeme1234",
        "letmein12345",
        "iloveyou1234",
        "welcome12345",
        "homeport1234",
        "correcthorsebatterystaple",
        "1q2w3e4r5t6y",
        "1qaz2wsx3edc",
        "asdfghjkl123",
        "passwordpassword",
        "qwertyuiopasdf",
        "trustno1trustno1",
        "mysecretpassword",
    }
)
SEQUENCES = ("abcdefghijklmnopqrstuvwxyz", "01234567890123456789", "qwertyuiopasdfghjklzxcvbnm")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who signed in, and the records that could not be opened (ids)."""

    account_id: str
    name: str
    unopened: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account as pages show it. A kit counts once it was confirmed."""

    id: str
    name: str
    administrator: bool
    state: str
    created_at: datetime
    kit_confirmed_at: datetime | None
    has_kit: bool
    totp: bool


@dataclass(frozen=True, slots=True)
class PatientView:
    """A patient as the person switcher shows it to one member."""

    id: str
    name: str
    colour: int
    initial: str
    role: str
    is_open: bool
    demo: bool = False


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A second factor about to be enrolled: the secret to type and the URI for a QR code."""

    secret: str
    uri: str


# ---------------------------------------------------------------------- accounts


def create_account(
    house: House,
    name: str,
    password: str,
    *,
    administrator: bool = False,
    kit_first: bool = False,
    cost: Cost | None = None,
) -> str:
    """Create an account with a fresh key pair and return its id.

    With `kit_first` it confirms a recovery kit before it fills a record (`waits_for_kit`). The
    first account's `cost` (calibrated here when None) becomes the house's. Raises InvalidInput
    (name or password) or Conflict (the name is taken).
    """
    shown = check_new(name, password)
    cost = _house_cost(house, cost)
    account_id, pair = ids.new_id(), slots.new_key_pair()
    row = Account(
        id=account_id,
        name=shown,
        name_key=name_key(shown),
        administrator=int(administrator),
        public_key=pair.public,
        password_wrap=slots.wrap_by_password(pair, account_id, password, cost),
        created_at=clock.now(),
    )
    with house.write() as session:
        if session.scalar(select(Account.id).where(Account.name_key == row.name_key)):
            raise Conflict("There is an account of this name already.")
        session.add(row)
        session.flush()
        if kit_first:
            put_setting(session, KIT_WAITS, account_id)
        audit.append_house(session, house, "account.created", account=account_id)
    return account_id


def check_new(name: str, password: str) -> str:
    """Return the name of a new account as it is shown. Raises InvalidInput (name or password)."""
    shown = _name(name)
    check_password(password, shown)
    return shown


def list_accounts(house: House) -> list[AccountView]:
    """Return every account, the oldest first."""
    with house.read() as session:
        return [
            _account_view(row)
            for row in session.scalars(select(Account).order_by(Account.created_at))
        ]


def get_account(house: House, account_id: str) -> AccountView:
    """Return an account for a page. Raises NotFound."""
    return _account_view(account_of(house, account_id))


def account_of(house: House, account_id: str) -> Account:
    """Return an account's row, wrapped keys included. Raises NotFound."""
    with house.read() as session:
        return session.get_one(Account, account_id)


def account_named(house: House, name: str) -> Account | None:
    """Return the active account of a typed name, or None."""
    with house.read() as session:
        return session.scalar(
            select(Account).where(
                Account.name_key == name_key(name), Account.state == AccountState.ACTIVE
            )
        )


def set_disabled(house: House, account_id: str, *, disabled: bool) -> None:
    """Disable an account (its sessions end at once) or let it in again."""
    with house.write(Priority.URGENT) as session:
        row = session.get_one(Account, account_id)
        last = select(func.count()).where(
            Account.administrator == 1, Account.state == AccountState.ACTIVE
        )
        if disabled and row.administrator and session.scalar(last) == 1:
            raise Conflict("This is the last administrator.")
        row.state = AccountState.DISABLED if disabled else AccountState.ACTIVE
        if disabled:
            session.execute(delete(Browser).where(Browser.account_id == account_id))
        event = "account.disabled" if disabled else "account.enabled"
        audit.append_house(session, house, event, account=account_id)


def check_password(password: str, name: str = "") -> None:
    """Raise InvalidInput unless a password is long and not guessed first. No composition rules."""
    typed = plain(password)
    if not LEAST_LETTERS <= len(typed) <= MOST_LETTERS:
        raise InvalidInput(
            f"A password has {LEAST_LETTERS} to {MOST_LETTERS} characters. Four or five words make"
            " a good one."
        )
    folded = typed.casefold().replace(" ", "")
    obvious = (
        len(set(folded)) < LEAST_DIFFERENT
        or folded in COMMON
        or any(folded in line * 3 for line in SEQUENCES)
        or (name and folded == name_key(name).replace(" ", ""))
    )
    if obvious:
        raise InvalidInput("This password is one of the first that would be guessed.")


def _house_cost(house: House, cost: Cost | None = None) -> Cost:
    kept = house.setting_or_made("password_cost", lambda: asdict(cost or slots.calibrated()))
    return slots.bounded(cost or Cost(**kept))


# ---------------------------------------------------------------------- signing in


def sign_in(
    house: House,
    vaults: Vaults,
    name: str,
    password: str,
    *,
    totp: str | None = None,
    network: str = "",
    loan: Loan | None = None,
) -> SignedIn:
    """Check name, password and second factor, and open every vault of the account.

    `network` is where the try comes from; with a `loan` records are open only for as long as it
    lasts. Raises WrongSecret (the same, in the same time, for an
    unknown name), TotpNeeded (password right, code missing), TooManyTries.
    """
    place = ids.fingerprint(name_key(name)[:LONGEST_NAME]).hex()[:32]
    tries = _tries(house, place, network)
    limits.take(house, tries)
    row = account_named(house, name)
    try:
        pair = _by_password(house, row, password)
    except WrongSecret:
        _note_failure(house, row, network)
        raise
    if row is None:  # pragma: no cover - _by_password has raised
        raise WrongSecret
    limits.passed(house, *(key for key, _ in tries))  # wrong codes slow the factor, not this
    if row.totp_secret is not None:
        if totp is None:
            raise TotpNeeded
        verify_totp(house, row.id, totp)
    limits.remember_place(house, f"{place}:{network}")
    _raise_cost(house, row, pair, password)
    with house.write() as session:
        audit.append_house(session, house, "signin.ok", account=row.id, network=network)
    unopened = open_vaults_of(house, vaults, row.id, pair, loan)
    return SignedIn(row.id, row.name, tuple(unopened))


def verify_password(house: House, account_id: str, password: str) -> None:
    """Check the password again before a delicate step. Raises WrongSecret or TooManyTries."""
    private_key(house, account_id, password)


def private_key(house: House, account_id: str, password: str) -> KeyPair:
    """Return the account's key pair, with the tries limited as those of sign-in are."""
    row = account_of(house, account_id)
    key = f"signin:{ids.fingerprint(row.name_key).hex()[:32]}:again"
    limits.take(house, [(key, limits.SIGN_IN)])
    pair = _by_password(house, row, password)
    limits.passed(house, key)
    return pair


def open_vaults_of(
    house: House, vaults: Vaults, account_id: str, pair: KeyPair, loan: Loan | None = None
) -> list[str]:
    """Open every vault the account is a member of and refresh its wraps in the slots files.

    Returns the ids of those that stay sealed because something is wrong with them.
    """
    unopened = []
    for patient_id in patient_ids(house, account_id):
        try:
            vaults.open_with_pair(patient_id, account_id, pair, loan)
            vaults.put_wraps(patient_id, account_id, pair, wraps_of(house, account_id))
        except PhrError as error:
            unopened.append(patient_id)
            house.warn(patient_id, error.sentence)
            logs.event(log, "vault.not_opened", patient=patient_id, error=type(error).__name__)
    return unopened


def wraps_of(house: House, account_id: str) -> tuple[Mapping[str, Any], ...]:
    """Return the wraps of an account's private key, as each slots file carries them."""
    row = account_of(house, account_id)
    return (row.password_wrap, *_kits(house, row))


def wraps_if_known(house: House, account_id: str) -> tuple[Mapping[str, Any], ...]:
    """Return the wraps of an account, none when this house does not have it."""
    try:
        return wraps_of(house, account_id)
    except NotFound:
        return ()


def _kits(house: House, row: Account) -> tuple[Mapping[str, Any], ...]:
    """Return the kit in force and the one that waits for confirmation."""
    waiting = house.get_setting(f"kit:{row.id}")
    return tuple(wrap for wrap in (waiting, row.kit_wrap) if wrap)


def _tries(house: House, place: str, network: str) -> list[tuple[str, Limit]]:
    """Per account and per network; somebody else's guessing does not lock a known place out."""
    here = (f"signin:{place}:{network}", limits.SIGN_IN)
    if limits.known_place(house, f"{place}:{network}"):
        return [here]
    everywhere = (f"signin:{place}", limits.SIGN_IN)
    return [everywhere, (f"network:{network}", limits.NETWORK)]


def _by_password(house: House, row: Account | None, password: str) -> KeyPair:
    """Unwrap; for an unknown account spend the same time and then say the same."""
    typed = plain(password)[:MOST_LETTERS]
    if row is None:
        slots.stretch(typed, bytes(slots.SALT_BYTES), _house_cost(house))
        raise WrongSecret
    return slots.unwrap(row.password_wrap, typed)


def _note_failure(house: House, row: Account | None, network: str) -> None:
    with house.write() as session:
        account = row.id if row else None
        audit.append_house(session, house, "signin.failed", account=account, network=network)


def _raise_cost(house: House, row: Account, pair: KeyPair, password: str) -> None:
    """Wrap anew when the house asks for more than this account's wrap was made with."""
    wanted, had = _house_cost(house), slots.cost_of(row.password_wrap)
    if wanted.memory * wanted.passes > had.memory * had.passes:
        wrap = slots.wrap_by_password(pair, row.id, plain(password), wanted)
        with house.write() as session:
            session.get_one(Account, row.id).password_wrap = wrap


# ---------------------------------------------------------------------- changing the password


def change_password(
    house: House,
    vaults: Vaults,
    account_id: str,
    old: str,
    new: str,
    *,
    keep_session: str | None = None,
) -> None:
    """Wrap the private key under a new password and end every session but `keep_session`.

    `keep_session` is a session's public id. Backups made before open with the old password.
    """
    pair = private_key(house, account_id, old)
    _set_password(house, vaults, account_id, pair, new, keep_session=keep_session)
    with house.write() as session:
        audit.append_house(session, house, "password.changed", account=account_id)


def _set_password(
    house: House,
    vaults: Vaults,
    account_id: str,
    pair: KeyPair,
    new: str,
    *,
    keep_session: str | None = None,
    forget_kit: bool = False,
) -> None:
    check_password(new, account_of(house, account_id).name)
    typed = plain(new)
    wrap = slots.wrap_by_password(pair, account_id, typed, _house_cost(house))
    if slots.unwrap(wrap, typed) != pair:  # verified before the old one goes
        raise WrongSecret
    with house.write(Priority.URGENT) as session:
        row = session.get_one(Account, account_id)
        row.password_wrap = wrap
        if forget_kit:
            row.kit_wrap, row.kit_confirmed_at = None, None
            put_setting(session, f"kit:{account_id}", None)
        end = delete(Browser).where(Browser.account_id == account_id)
        session.execute(end.where(Browser.public_id != (keep_session or "")))
    _carry_wraps(house, vaults, account_id, pair)


def _carry_wraps(house: House, vaults: Vaults, account_id: str, pair: KeyPair) -> None:
    """Copy the account's wraps into each slots file; one that fails is mended at next sign-in."""
    for patient_id in patient_ids(house, account_id):
        try:
            vaults.put_wraps(patient_id, account_id, pair, wraps_of(house, account_id))
        except PhrError:
            logs.event(log, "slots.not_refreshed", patient=patient_id)


# ---------------------------------------------------------------------- the recovery kit


def make_kit(house: House, vaults: Vaults, account_id: str, password: str) -> str:
    """Return a new recovery code: 8 groups of 5 characters, shown once and never stored.

    It works at once; an older one works until `confirm_kit`. Old backups keep opening with the kit
    of their time.
    """
    pair = private_key(house, account_id, password)
    kit = ids.random_bytes(slots.KIT_BYTES)
    wrap = slots.wrap_by_kit(pair, account_id, kit)
    with house.write(Priority.URGENT) as session:
        put_setting(session, f"kit:{account_id}", wrap)
        audit.append_house(session, house, "kit.made", account=account_id)
    _carry_wraps(house, vaults, account_id, pair)
    return slots.spell_kit(kit)


def confirm_kit(house: House, account_id: str) -> None:
    """Put the waiting kit in the older one's place: parts of it were typed back."""
    with house.write(Priority.URGENT) as session:
        row = session.get_one(Account, account_id)
        waiting = session.get(Setting, f"kit:{account_id}")
        if waiting is None:
            raise Conflict("There is no recovery kit that waits. Please make one.")
        row.kit_wrap, row.kit_confirmed_at = waiting.value, clock.now()
        session.delete(waiting)
        first = session.get(Setting, KIT_WAITS)
        if first is not None and first.value == account_id:
            session.delete(first)
        audit.append_house(session, house, "kit.confirmed", account=account_id)


def waits_for_kit(house: House, account_id: str) -> bool:
    """Tell whether this account fills no record yet, as its recovery kit was never confirmed."""
    return bool(house.get_setting(KIT_WAITS) == account_id)


def recover(
    house: House, vaults: Vaults, name: str, kit: str, new_password: str, *, network: str = ""
) -> str:
    """Set a new password by the recovery kit and return the account id; the kit is then used up.

    Every session ends; a second factor stays. A typo in the code is told by its group and is not
    counted. Raises WrongSecret (also for an unknown name), InvalidInput, TooManyTries.
    """
    secret = slots.read_kit(kit)
    place = ids.fingerprint(name_key(name)[:LONGEST_NAME]).hex()[:32]
    tries = [(f"kit:{place}", limits.KIT), (f"network:{network}", limits.NETWORK)]
    limits.take(house, tries)
    check_password(new_password, name)
    row = account_named(house, name)
    pair = None if row is None else _by_kit(house, row, secret)
    if row is None or pair is None:
        raise WrongSecret("That name and recovery code do not fit together.")
    _set_password(house, vaults, row.id, pair, new_password, forget_kit=True)
    limits.passed(house, *(key for key, _ in tries))
    with house.write() as session:
        audit.append_house(session, house, "kit.used", account=row.id, network=network)
    return row.id


def _by_kit(house: House, row: Account, secret: bytes) -> KeyPair | None:
    for wrap in _kits(house, row):
        try:
            return slots.unwrap(wrap, secret)
        except WrongSecret:
            continue
    return None


# ---------------------------------------------------------------------- the second factor


def has_totp(house: House, account_id: str) -> bool:
    """Tell whether a second factor is enrolled."""
    return account_of(house, account_id).totp_secret is not None


def enrol_totp(house: House, account_id: str) -> Enrolment:
    """Return a new TOTP secret (RFC 6238); it counts once `confirm_totp` saw a code of it."""
    import pyotp  # noqa: PLC0415 - a start need not wait for it

    row, secret = account_of(house, account_id), pyotp.random_base32()
    until = clock.to_ms(clock.now() + ENROL_MINUTES)
    house.set_setting(f"totp:{account_id}", {"secret": secret, "until": until})
    uri = pyotp.TOTP(secret).provisioning_uri(name=row.name, issuer_name="Homeport")
    return Enrolment(secret, uri)


def confirm_totp(house: House, account_id: str, code: str) -> None:
    """Enrol the waiting secret after one right code. Raises WrongSecret or Conflict (too late)."""
    waiting = house.get_setting(f"totp:{account_id}")
    if waiting is None or waiting["until"] < clock.to_ms(clock.now()):
        raise Conflict("This took too long. Please begin again with a new QR code.")
    limits.take(house, [(f"totp:{account_id}", limits.TOTP)])
    step = _fitting_step(waiting["secret"], code, after=None)
    with house.write(Priority.URGENT) as session:
        row = session.get_one(Account, account_id)
        row.totp_secret, row.totp_last_step = waiting["secret"].encode(), step
        put_setting(session, f"totp:{account_id}", None)
        audit.append_house(session, house, "totp.enrolled", account=account_id)
    limits.passed(house, f"totp:{account_id}")


def verify_totp(house: House, account_id: str, code: str) -> None:
    """Accept a code once (RFC 6238 §5.2), one step of 30 s early or late. Raises WrongSecret."""
    key = f"totp:{account_id}"
    limits.take(house, [(key, limits.TOTP)])
    with house.write(Priority.URGENT) as session:
        row = session.get_one(Account, account_id)
        if row.totp_secret is None:
            raise WrongSecret("No second factor is set up for this account.")
        row.totp_last_step = _fitting_step(row.totp_secret.decode(), code, after=row.totp_last_step)
    limits.passed(house, key)


def drop_totp(house: House, account_id: str, *, code: str = "", kit: str = "") -> None:
    """Remove the second factor, proved by a code of it or (phone lost) by the recovery kit."""
    if kit:
        secret = slots.read_kit(kit)
        limits.take(house, [(f"totp:{account_id}", limits.TOTP)])
        if _by_kit(house, account_of(house, account_id), secret) is None:
            raise WrongSecret("That is not the recovery code of this account.")
        limits.passed(house, f"totp:{account_id}")
    else:
        verify_totp(house, account_id, code)
    with house.write(Priority.URGENT) as session:
        row = session.get_one(Account, account_id)
        row.totp_secret, row.totp_last_step = None, None
        audit.append_house(session, house, "totp.dropped", account=account_id)


def _fitting_step(secret: str, code: str, *, after: int | None) -> int:
    import pyotp  # noqa: PLC0415 - a start need not wait for it

    digits = six_digits(code)
    now = int(clock.now().timestamp()) // STEP_SECONDS
    totp = pyotp.TOTP(secret)
    fits = [s for s in (now - 1, now, now + 1) if ids.same(totp.generate_otp(s), digits)]
    if not fits:
        raise WrongSecret(
            "This code does not fit. If it goes on, look at the clock of the phone and of this box."
        )
    if after is not None and fits[-1] <= after:
        raise WrongSecret("This code was used already. Please wait for the next one.")
    return fits[-1]


def six_digits(code: str) -> str:
    """Return a typed code as six ASCII digits, whatever digits and spaces were typed."""
    typed = "".join(code.split()).replace("-", "")
    if len(typed) != 6 or not typed.isdigit():
        raise WrongSecret("The code has six digits.")
    return "".join(str(unicodedata.digit(sign)) for sign in typed)


# ---------------------------------------------------------------------- patients


def create_patient(
    house: House,
    vaults: Vaults,
    *,
    name: str,
    colour: int = 1,
    account_id: str,
    role: str = MemberRole.SELF,
    opens_by_itself: bool = False,
    demo: bool = False,
) -> str:
    """Create a patient with a vault of its own, opened, and its first member; return the id."""
    shown, chosen = _name(name), _colour(colour)
    first = MemberRole(role)
    if first == MemberRole.VIEWER:
        raise InvalidInput("The first member of a record is its person or acts for it.")
    account, patient_id = account_of(house, account_id), ids.new_id()
    founder = Founder(
        account_id, account.name, first, account.public_key, wraps_of(house, account_id)
    )
    person = {"name": shown, "colour": chosen, "demo": int(demo)}
    vault = vaults.create(patient_id, founder, person=person, by_itself=opens_by_itself)
    now = clock.now()
    with house.write() as session:
        session.add(
            Patient(id=patient_id, name=shown, colour=chosen, demo=int(demo), created_at=now)
        )
        session.flush()
        session.add(Membership(account_id=account_id, patient_id=patient_id, role=first, since=now))
        session.flush()
        is_made(session, patient_id)
        audit.append_house(session, house, "patient.created", patient=patient_id)
    actor = {"kind": "account", "id": account_id, "name": account.name}
    with vault.write() as session:
        audit.append(session, vault, "vault.created", actor)
    vaults.register(vault)
    return patient_id


# Plain SQL: the person switcher is on every page.
_PATIENTS = (
    "SELECT p.id, p.name, p.colour, p.demo, m.role FROM patient p"
    " JOIN membership m ON m.patient_id = p.id WHERE m.account_id = ? AND p.state = 'active'"
    " ORDER BY m.role <> 'self', p.demo, p.created_at"
)
_EVERY_PATIENT = (
    "SELECT id, name, colour, demo, '' FROM patient WHERE state = 'active' ORDER BY created_at"
)


def patients_of(house: House, account_id: str) -> list[PatientView]:
    """Return the patients the account is a member of: own record first, then the oldest."""
    return _patient_views(house, _PATIENTS, (account_id,))


def patient_ids(house: House, account_id: str) -> list[str]:
    """Return the ids of the patients the account is a member of."""
    return [patient.id for patient in patients_of(house, account_id)]


def all_patients(house: House) -> list[PatientView]:
    """Return every patient of the house, for administration: names and states, role empty."""
    return _patient_views(house, _EVERY_PATIENT, ())


def set_person(
    house: House,
    vaults: Vaults,
    patient_id: str,
    *,
    name: str | None = None,
    colour: int | None = None,
) -> None:
    """Change a patient's name or colour, in the house and inside the (open) vault."""
    vault = vaults.get(patient_id)
    with house.write() as session:
        row = _active(session, patient_id)
        row.name = _name(name) if name is not None else row.name
        row.colour = _colour(colour) if colour is not None else row.colour
        person = {"name": row.name, "colour": row.colour, "demo": row.demo}
    keep_person(vault, person)


def set_opens_by_itself(house: House, vaults: Vaults, patient_id: str, on: bool) -> None:
    """Give the house a key to a vault, or take it back (the vault key is then changed)."""
    vault = vaults.get(patient_id)
    if vaults.opens_by_itself(patient_id) == on:
        return
    vaults.set_by_itself(vault, on=on)
    with vault.write() as session:
        event = "vault.opens_by_itself" if on else "vault.waits_for_member"
        audit.append(session, vault, event, audit.APPLIANCE)
    with house.write() as session:
        audit.append_house(session, house, event, patient=patient_id)


def shred(house: House, vaults: Vaults, patient_id: str) -> None:
    """Destroy a record for ever: keys first, then files, routing ids and local backups.

    The tombstone is written first: after a crash the next start finishes it. Copies outside this
    machine are not reached; the page says so.
    """
    with house.write(Priority.URGENT) as session:
        vaults.bury(session, _active(session, patient_id))
        audit.append_house(session, house, "patient.shredded", patient=patient_id)
    vaults.shred_files(patient_id)


def _active(session: Rows, patient_id: str) -> Patient:
    row = session.get(Patient, patient_id)
    if row is None or row.state != PatientState.ACTIVE:
        raise NotFound
    return row


def _account_view(row: Account) -> AccountView:
    return AccountView(
        row.id,
        row.name,
        bool(row.administrator),
        row.state,
        row.created_at,
        row.kit_confirmed_at,
        row.kit_wrap is not None,
        row.totp_secret is not None,
    )


def _patient_views(house: House, query: str, values: tuple[str, ...]) -> list[PatientView]:
    with house.read() as session:
        found = rows(session, query, values)
    is_open = house.open_vaults.__contains__
    return [
        PatientView(key, name, colour, name[:1].upper(), role, is_open(key), demo > 0)
        for key, name, colour, demo, role in found
    ]


def plain(text: str) -> str:
    """Return a typed password or name in NFC, so that every keyboard spells it alike."""
    return unicodedata.normalize("NFC", text)


def _name(name: str) -> str:
    shown = " ".join(plain(name).split())
    if not shown or len(shown) > LONGEST_NAME or not shown.isprintable():
        raise InvalidInput(f"A name has 1 to {LONGEST_NAME} characters.")
    return shown


def name_key(name: str) -> str:
    """Return the form of a name in which two names are compared."""
    return unicodedata.normalize("NFKC", " ".join(name.split()).casefold())


def _colour(colour: int) -> int:
    if colour not in COLOURS:
        raise InvalidInput("Please choose one of the four colours.")
    return colour

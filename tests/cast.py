"""The cast and the stage of every test: a real appliance on a temporary folder, and its people.

Ada (administrator) keeps her own record and that of her child Ben; Cleo is a viewer of Ada's
record; Eve has an account and a record of her own and is nobody's member.
"""

from dataclasses import dataclass, field
from typing import Any

import httpx

from phr.appliance import Appliance
from phr.store import accounts, members
from phr.store.vault import Vault
from phr.web.app import create_home_app, create_public_app
from tests.in_process import InProcess

HOME = "http://127.0.0.1:8080"
PUBLIC = "http://127.0.0.1:8081"
PASSWORDS = {
    "Ada": "correct horse battery",
    "Cleo": "staple lantern orchard",
    "Eve": "window marble thunder",
}


class Browser(httpx.Client):
    """A browser without script, wired to an application: cookies, Origin, csrf field, streams."""

    def __init__(self, app: Any, origin: str, *, network: str = "127.0.0.1") -> None:
        headers = {"accept": "text/html", "user-agent": "Mozilla/5.0 (Linux) Firefox/140"}
        super().__init__(transport=InProcess(app, network), base_url=origin, headers=headers)
        self.origin = origin

    def csrf(self, path: str = "/account") -> str:
        """Return the token a page's forms carry, after following redirects."""
        page = self.get(path, follow_redirects=True)
        return csrf_in(page.text)

    def build_request(self, method: str, url: Any, **options: Any) -> httpx.Request:
        """Add the Origin every browser adds to a form, unless the test sets one (or an empty)."""
        request = super().build_request(method, url, **options)
        if method not in {"GET", "HEAD"}:
            request.headers.setdefault("origin", self.origin)
            if not request.headers["origin"]:
                del request.headers["origin"]
        return request

    def submit(
        self, path: str, data: dict[str, Any] | None = None, *, page: str = "/account", **more: Any
    ) -> httpx.Response:
        """Post a form as a person would: with the token of the page it stands on."""
        return self.post(path, data={"csrf": self.csrf(page), **(data or {})}, **more)


def csrf_in(html: str) -> str:
    """Return the first csrf token of a page."""
    before, found, rest = html.partition('name="csrf" value="')
    assert found, f"no form on this page: {before[:300]}"
    return rest.partition('"')[0]


@dataclass
class Cast:
    """The appliance, its people by name, and browsers for them."""

    appliance: Appliance
    home: Any
    public: Any
    accounts: dict[str, str] = field(default_factory=dict)  # name -> account id
    patients: dict[str, str] = field(default_factory=dict)  # name -> patient id
    _open: list[Browser] = field(default_factory=list, repr=False)

    def vault(self, name: str) -> Vault:
        """Return the open vault of Ada, Ben or Eve."""
        return self.appliance.vault(self.patients[name])

    def browser(self, name: str | None = None, *, network: str = "127.0.0.1") -> Browser:
        """Return a browser at the home address, signed in as `name`; anonymous without one."""
        browser = Browser(self.home, HOME, network=network)
        self._open.append(browser)
        if name is not None:
            sign_in(browser, name)
        return browser

    def stranger(self, *, network: str = "203.0.113.7") -> Browser:
        """Return a browser at the public address."""
        self._open.append(Browser(self.public, PUBLIC, network=network))
        return self._open[-1]

    def add_account(self, name: str) -> str:
        """Create one more account; its password is the name and some words."""
        house = self.appliance.house
        self.accounts[name] = accounts.create_account(house, name, password_of(name))
        return self.accounts[name]

    def let_in(self, patient: str, name: str, role: str) -> None:
        """Make an account a member of a patient's record: invited, answered, confirmed."""
        house, vaults = self.appliance.house, self.appliance.vaults
        patient_id, keeper = self.patients[patient], self.accounts["Ada"]
        invited = members.invite(house, patient_id, by=keeper, role=role)
        answered = members.answer(house, invited.code, self.accounts[name])
        members.confirm_member(
            house, vaults, invited.id, by=keeper, fingerprint=answered.fingerprint or ""
        )

    def close(self) -> None:
        """Close the browsers; the appliance belongs to its own fixture."""
        for browser in self._open:
            browser.close()


def password_of(name: str) -> str:
    """Return the password of a person of the cast, also of those a test adds."""
    return PASSWORDS.get(name, f"{name} and some quiet words")


def sign_in(browser: Browser, name: str, **more: str) -> None:
    """Sign in through the page; fails the test when that does not work."""
    answer = browser.submit(
        "/signin", {"name": name, "password": password_of(name), **more}, page="/signin"
    )
    assert answer.status_code == 303, answer.text


def populate(appliance: Appliance) -> Cast:
    """Create the cast in an empty appliance and return it with both applications."""
    house, vaults = appliance.house, appliance.vaults
    cast = Cast(appliance, create_home_app(appliance), create_public_app(appliance))
    for name, password in PASSWORDS.items():
        cast.accounts[name] = accounts.create_account(
            house, name, password, administrator=name == "Ada"
        )
    for name, keeper, role in (
        ("Ada", "Ada", "self"),
        ("Ben", "Ada", "proxy"),
        ("Eve", "Eve", "self"),
    ):
        cast.patients[name] = accounts.create_patient(
            house,
            vaults,
            name=name,
            colour=1,
            account_id=cast.accounts[keeper],
            role=role,
            opens_by_itself=True,
        )
    cast.let_in("Ada", "Cleo", "viewer")
    return cast


def settle(appliance: Appliance, pattern: Cast) -> Cast:
    """Return the cast of an appliance that was opened on a copy of the folder of `pattern`."""
    return Cast(
        appliance,
        create_home_app(appliance),
        create_public_app(appliance),
        dict(pattern.accounts),
        dict(pattern.patients),
    )

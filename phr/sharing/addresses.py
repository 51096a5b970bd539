"""Where the endpoints of this server are: the one place where their paths are spelled.

By configuration; nothing of it is taken from a request. Loads nothing heavy: the documents that
programs read first are made from it.
"""

from dataclasses import dataclass
from typing import Final

from phr.settings import Settings

FHIR: Final = "/fhir"
AUTHORIZE: Final = "/oauth/authorize"
TOKEN: Final = "/oauth/token"  # noqa: S105 - a path
REGISTER: Final = "/oauth/register"
INTROSPECT: Final = "/oauth/introspect"
REVOKE: Final = "/oauth/revoke"
KEYS: Final = "/oauth/keys.json"


@dataclass(frozen=True, slots=True)
class Addresses:
    """The two addresses of this server, and what lies below them."""

    public_url: str
    home_url: str

    @property
    def fhir(self) -> str:
        """The FHIR base: what `aud` must be."""
        return self.public_url + FHIR

    @property
    def token(self) -> str:
        """The token endpoint: what a client assertion is made for."""
        return self.public_url + TOKEN


def of(settings: Settings) -> Addresses:
    """Return the addresses that an appliance is configured with."""
    return Addresses(settings.public_url, settings.home_url)

"""The only reader of the environment: every setting is a PHR_* variable with a safe default.

`load` reports every problem at once, unknown PHR_* variables included. docs/settings.md holds the
same table; a house test compares the two.
"""

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from phr.errors import SettingsError

PREFIX = "PHR_"
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})
_MAX_PORT = 65535
_OWN_SEGMENTS = frozenset({"p", "s", "static"})  # a sub-path of this name could not be told apart
_MAX_SECRET = 4096  # a secret file larger than this is some other file


# ------------------------------------------------------------------ from text to values


def _text(given: str) -> str:
    return given.strip()


def _path(given: str) -> Path:
    return Path(given.strip()).expanduser().absolute()


def _switch(given: str) -> bool:
    word = given.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("must be 1 or 0")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(given: str) -> int:
        digits = given.strip()
        if not digits.isascii() or not digits.isdigit() or not low <= int(digits) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(digits)

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(given: str) -> str:
        word = given.strip().lower()
        if word not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return word

    return parse


def _address(given: str) -> str:
    host = given.strip()
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise ValueError("must be an IP address of this machine, such as 127.0.0.1") from None


def _url(given: str) -> str:
    text = given.strip().rstrip("/")
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an address such as https://phr.example.org")
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise ValueError("must have no query, fragment or password")
    if "//" in parts.path or ".." in parts.path.split("/") or not text.isascii():
        raise ValueError("must have a plain path, or none")
    _ = parts.port  # raises ValueError when it is no port
    return text


def _list(given: str) -> tuple[str, ...]:
    return tuple(part for part in given.replace(",", " ").split() if part)


def _networks(given: str) -> tuple[str, ...]:
    return tuple(str(ipaddress.ip_network(part, strict=False)) for part in _list(given))


def _advisor(given: str) -> str:
    parts = urlsplit(given)
    local = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if not parts.hostname or not (parts.scheme == "https" or local):
        raise ValueError("must be an https address")
    return given


def _lighthouses(given: str) -> tuple[str, ...]:
    found = []
    for part in _list(given):
        url, _, keys = part.partition("#")
        parts = urlsplit(url)
        local = parts.scheme == "http" and is_loopback(parts.hostname or "")
        if not parts.hostname or not (parts.scheme == "https" or local) or parts.query:
            raise ValueError("must be https addresses, such as https://lighthouse.example.org#KEY")
        if not all(re.fullmatch(r"[A-Za-z0-9_-]{43}", key) for key in keys.split("+")):
            raise ValueError(
                "must give each lighthouse's root key after a #: 43 letters and digits"
            )
        found.append(f"{url.rstrip('/')}#{keys}")
    return tuple(found)


def _name_servers(given: str) -> tuple[tuple[str, int], ...]:
    found = []
    for part in _list(given):
        parts = urlsplit(f"//{part}")
        try:
            found.append((str(ipaddress.ip_address(parts.hostname or "")), parts.port or 53))
        except ValueError:
            raise ValueError("must be IP addresses, such as 9.9.9.9 or 127.0.0.1:5353") from None
    return tuple(found)


def _host_ports(given: str) -> tuple[str, ...]:
    found = []
    for part in _list(given):
        parts = urlsplit(f"//{part}")
        if not parts.hostname or parts.port is None or parts.path:
            raise ValueError("must be host:port pairs, such as fhir.lan:8443")
        found.append(part.lower())
    return tuple(found)


def _listen(given: str) -> tuple[str, int] | None:
    if not given.strip():
        return None
    host, colon, port = given.strip().rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > _MAX_PORT:
        raise ValueError("must be address:port, such as 127.0.0.1:8025")
    return _address(host.strip("[]")), int(port)


# ------------------------------------------------------------------ the table


def _setting(
    variable: str, parse: Callable[[str], Any], default: Any, about: str, *, secret: bool = False
) -> Any:
    """Declare one setting: its variable, how its text is read, its default and what it is for."""
    facts = {"variable": variable, "parse": parse, "about": about, "secret": secret}
    return field(default=default, metadata=facts, repr=not secret)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the person who runs this box decided. Frozen; made by `load` (tests may build one)."""

    data: Path = _setting("PHR_DATA", _path, Path("data"), "Folder that holds everything.")
    host: str = _setting(
        "PHR_HOST",
        _address,
        "127.0.0.1",
        "Address the pages listen on. One beyond this machine needs TLS.",
    )
    port: int = _setting("PHR_PORT", _whole(0, _MAX_PORT), 8080, "Port of the pages.")
    public_host: str = _setting(
        "PHR_PUBLIC_HOST", _address, "127.0.0.1", "Address the public doors listen on."
    )
    public_port: int = _setting(
        "PHR_PUBLIC_PORT", _whole(0, _MAX_PORT), 8081, "Port of the public doors."
    )
    home_url: str = _setting(
        "PHR_HOME_URL",
        _url,
        "http://127.0.0.1:8080",
        "Address people of the household type; may hold a sub-path. Never taken from a request.",
    )
    public_url: str = _setting(
        "PHR_PUBLIC_URL",
        _url,
        "http://127.0.0.1:8081",
        "Address doctors and other servers reach; links are made from it. It must be https before "
        "any link is made, unless it is this machine.",
    )
    trusted_proxies: tuple[str, ...] = _setting(
        "PHR_TRUSTED_PROXIES",
        _networks,
        (),
        "Networks of your reverse proxy; only their X-Forwarded-For and -Proto count.",
    )
    tls: str = _setting(
        "PHR_TLS",
        _one_of("off", "own", "proxy"),
        "off",
        "Who ends TLS: own (this box, by its own local CA or the files below), proxy (your reverse "
        "proxy), off. When unset: own as soon as an address beyond this machine is listened on.",
    )
    tls_cert_file: Path | None = _setting(
        "PHR_TLS_CERT_FILE", _path, None, "Certificate chain (PEM) to use instead of the local CA."
    )
    tls_key_file: Path | None = _setting(
        "PHR_TLS_KEY_FILE", _path, None, "Private key (PEM) that belongs to it."
    )
    insecure: bool = _setting(
        "PHR_INSECURE",
        _switch,
        False,
        "1 allows plain http beyond this machine. Every page then carries a warning.",
    )
    house_key_file: Path | None = _setting(
        "PHR_HOUSE_KEY_FILE",
        _path,
        None,
        "Where the house key lies (a container secret, another disk); default is house.key in the "
        "data folder. A key is never taken from a variable: those can be seen from outside.",
    )
    setup_code: str | None = _setting(
        "PHR_SETUP_CODE",
        _text,
        None,
        "Set-up code to use instead of a random one (at least 12 characters).",
        secret=True,
    )
    allowed_hosts: tuple[str, ...] = _setting(
        "PHR_LAN_HOSTS",
        _host_ports,
        (),
        "host:port of FHIR and mail servers in your own network that may be connected. All other "
        "private addresses stay refused.",
    )
    name_servers: tuple[tuple[str, int], ...] = _setting(
        "PHR_NAME_SERVERS",
        _name_servers,
        (),
        "Resolvers asked for the certificates of Direct addresses, as address or address:port. "
        "Without one the machine's own are asked; a router's may not know such records.",
    )
    lighthouses: tuple[str, ...] = _setting(
        "PHR_LIGHTHOUSES",
        _lighthouses,
        (),
        "Lighthouses whose signed list of hospitals is fetched once a day, the preferred first: "
        "address#root-key. Without one nothing is ever fetched; a built-in list and a file do too.",
    )
    advisor: str | None = _setting(
        "PHR_ADVISOR",
        _advisor,
        None,
        "Address of an adviser who is asked about each server before it may fetch, and again at "
        "each token. It is told which server, and nothing about any patient. Empty: nobody is.",
    )
    mail_listen: tuple[str, int] | None = _setting(
        "PHR_MAIL_LISTEN",
        _listen,
        None,
        "address:port where Direct mail is taken in, from your mail server or from the internet. "
        "Only mail to an address of this house is. Empty: none is.",
    )
    demo: bool = _setting(
        "PHR_DEMO", _switch, False, "1 starts the demo hospital beside the appliance."
    )
    demo_port: int = _setting(
        "PHR_DEMO_PORT",
        _whole(0, _MAX_PORT),
        8082,
        "Port of the demo hospital (this machine only).",
    )
    idle_minutes: int = _setting(
        "PHR_IDLE_MINUTES",
        _whole(1, 24 * 60),
        15,
        "A browser is signed out after this many minutes without a click.",
    )
    session_hours: int = _setting(
        "PHR_SESSION_HOURS",
        _whole(1, 24 * 30),
        12,
        "A browser is signed out after this many hours in any case.",
    )
    pull_full_days: int = _setting(
        "PHR_PULL_FULL_DAYS",
        _whole(1, 90),
        7,
        "Every so many days a pull reads everything again, not only what changed.",
    )
    backup_hour: int = _setting(
        "PHR_BACKUP_HOUR", _whole(0, 23), 3, "Hour (UTC) of the nightly backup."
    )
    backup_keep: int = _setting(
        "PHR_BACKUP_KEEP", _whole(1, 366), 14, "How many backups of each record are kept."
    )
    log_level: str = _setting(
        "PHR_LOG_LEVEL",
        _one_of("debug", "info", "warning", "error"),
        "info",
        "How much is logged. Never names, values or secrets, at any level.",
    )

    @property
    def house_key_path(self) -> Path:
        """The file of the house key, wherever it lies."""
        return self.house_key_file or self.data / "house.key"

    @property
    def control_path(self) -> Path:
        """The control socket of a running appliance."""
        return self.data / "run" / "phr.sock"

    @property
    def outbox_path(self) -> Path:
        """The folder into which the channel "save to a file" delivers."""
        return self.data / "outbox"

    @property
    def catalogue_path(self) -> Path:
        """The folder of the catalogue of hospitals: nothing in it is about anybody here."""
        return self.data / "catalogue"

    @property
    def tls_path(self) -> Path:
        """Folder of the local CA and of the certificate it issued."""
        return self.data / "tls"

    @property
    def home_path(self) -> str:
        """The sub-path of the home address: empty, or such as `/phr`."""
        return urlsplit(self.home_url).path

    @property
    def public_path(self) -> str:
        """The sub-path of the public address: empty, or such as `/doors`."""
        return urlsplit(self.public_url).path

    @property
    def home_origin(self) -> str:
        """Scheme, host and port of the home address, as a browser sends it in `Origin`."""
        return _origin(urlsplit(self.home_url))

    @property
    def public_origin(self) -> str:
        """Scheme, host and port of the public address, as a browser sends it in `Origin`."""
        return _origin(urlsplit(self.public_url))

    @property
    def home_is_https(self) -> bool:
        """Whether browsers reach the pages by https: cookies are then `__Host-` and Secure."""
        return self.home_url.startswith("https://")

    @property
    def public_is_https(self) -> bool:
        """Whether browsers reach the doors by https."""
        return self.public_url.startswith("https://")

    @property
    def public_is_safe(self) -> bool:
        """Whether a link may be made: the doors are reached by https or on this very machine."""
        return self.public_is_https or is_loopback(urlsplit(self.public_url).hostname or "")

    @property
    def home_is_plain_lan(self) -> bool:
        """Whether pages travel readable through a network: every page then says so."""
        return not self.home_is_https and not is_loopback(urlsplit(self.home_url).hostname or "")


@lru_cache(maxsize=64)  # asked for every page
def is_loopback(host: str) -> bool:
    """Tell whether a host name or address means this machine and no other (RFC 6761 §6.3)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _origin(parts: SplitResult) -> str:
    """Return the origin in its ASCII form: default ports are left out (RFC 6454 §6.2)."""
    host = parts.hostname or ""
    name = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}[parts.scheme]
    port = "" if parts.port in {None, default} else f":{parts.port}"
    return f"{parts.scheme}://{name}{port}"


# ------------------------------------------------------------------ loading


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of settings, for the documentation and for `phr check`."""

    name: str
    variable: str
    default: Any
    about: str
    secret: bool


def table() -> list[Row]:
    """Return every setting in the order of the documentation."""
    return [_row(item) for item in fields(Settings)]


def _row(item: "Field[Any]") -> Row:
    facts = item.metadata
    return Row(item.name, facts["variable"], item.default, facts["about"], facts["secret"])


def load(environ: Mapping[str, str]) -> Settings:
    """Read the settings of an environment; raise SettingsError that lists every problem at once."""
    problems: list[str] = list(_unknown(environ))
    given: dict[str, Any] = {}
    for item in fields(Settings):
        try:
            text = _given(environ, item)
            if text is not None:
                given[item.name] = item.metadata["parse"](text)
        except (ValueError, OSError) as error:
            problems.append(f"{item.metadata['variable']} {_reason(error)}")
    settings = _derived(given)
    if not problems:
        problems.extend(_contradictions(settings))
    if problems:
        raise SettingsError("Please correct the settings: " + "; ".join(problems) + ".")
    return settings


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"names a file that cannot be read ({error.strerror})"
    return str(error)


def _given(environ: Mapping[str, str], item: "Field[Any]") -> str | None:
    """Return the text given for a setting; a secret may come from the file `<variable>_FILE`."""
    variable = item.metadata["variable"]
    text = environ.get(variable)
    file = environ.get(f"{variable}_FILE") if item.metadata["secret"] else None
    if text and file:
        raise ValueError(f"and {variable}_FILE are both given; keep one")
    if file:
        text = Path(file).read_text(encoding="utf-8")[:_MAX_SECRET].strip()
        if not text:
            raise ValueError("comes from an empty file")
    return text or None


def _known() -> list[str]:
    rows = table()
    return [row.variable for row in rows] + [f"{row.variable}_FILE" for row in rows if row.secret]


def _unknown(environ: Mapping[str, str]) -> Iterator[str]:
    """Report PHR_* variables nobody reads: a typing mistake must not silently mean a default."""
    known = _known()
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in known:
            near = difflib.get_close_matches(variable, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            yield f"{variable} is not a setting{hint}"


def _derived(given: dict[str, Any]) -> Settings:
    """Fill in what follows from other settings: TLS beyond this machine, and the two addresses."""
    settings = Settings(**given)
    given = given | {"data": settings.data.absolute()}
    beyond = not (is_loopback(settings.host) and is_loopback(settings.public_host))
    if "tls" not in given and not settings.insecure:
        own = beyond or settings.tls_cert_file is not None
        given = given | {"tls": "own" if own else "off"}
    scheme = "https" if given.get("tls") == "own" else "http"
    addresses = {
        "home_url": f"{scheme}://{_reachable(settings.host)}:{settings.port}",
        "public_url": f"{scheme}://{_reachable(settings.public_host)}:{settings.public_port}",
    }
    return Settings(**(addresses | given))


def _reachable(host: str) -> str:
    """Return what to write into an address for a listening host; "all" is not an address."""
    if ipaddress.ip_address(host).is_unspecified:
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _contradictions(settings: Settings) -> Iterator[str]:
    """Report settings that are each right and together wrong."""
    beyond = not (is_loopback(settings.host) and is_loopback(settings.public_host))
    if (settings.tls_cert_file is None) != (settings.tls_key_file is None):
        yield "PHR_TLS_CERT_FILE and PHR_TLS_KEY_FILE need each other"
    if settings.tls_cert_file and settings.tls != "own":
        yield "PHR_TLS_CERT_FILE is only used with PHR_TLS=own"
    if beyond and settings.tls == "off" and not settings.insecure:
        yield (
            "PHR_HOST or PHR_PUBLIC_HOST listens beyond this machine: set PHR_TLS=own or "
            "PHR_TLS=proxy (or PHR_INSECURE=1, and everyone in your network can read along)"
        )
    if settings.tls == "proxy" and not settings.trusted_proxies:
        yield "PHR_TLS=proxy needs PHR_TRUSTED_PROXIES (the network of your proxy)"
    if settings.setup_code is not None and len(settings.setup_code) < 12:
        yield "PHR_SETUP_CODE needs at least 12 characters"
    same_address = (settings.host, settings.port) == (settings.public_host, settings.public_port)
    if same_address and settings.port:
        yield "PHR_PORT and PHR_PUBLIC_PORT must differ"
    if settings.home_path.strip("/").split("/")[0] in _OWN_SEGMENTS:
        yield "PHR_HOME_URL must not begin its path with a name that our own pages use"
    yield from _wrong_scheme(settings, "PHR_HOME_URL", settings.home_url)
    yield from _wrong_scheme(settings, "PHR_PUBLIC_URL", settings.public_url)


def _wrong_scheme(settings: Settings, variable: str, url: str) -> Iterator[str]:
    parts = urlsplit(url)
    if settings.tls == "own" and parts.scheme != "https":
        yield f"{variable} must begin with https:// when PHR_TLS=own"
    if settings.tls == "off" and parts.scheme == "https":
        yield f"{variable} begins with https://: say who ends TLS by PHR_TLS=own or PHR_TLS=proxy"
    plain = settings.tls != "own" and parts.scheme == "http"
    if plain and not settings.insecure and not is_loopback(parts.hostname or ""):
        yield f"{variable} must begin with https:// (or set PHR_INSECURE=1)"

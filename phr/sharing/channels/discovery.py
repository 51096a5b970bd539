"""Where the certificate of a Direct address is published: DNS CERT, then LDAP; each step in words.

Applicability Statement for Secure Health Transport 1.3 §5, RFC 4398, S&I Certificate Discovery.
Answers come unauthenticated: a certificate found is kept only where `phr.sharing.channels.trust`
says so, and the name under which it was found proves nothing.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509

from phr.errors import InvalidInput, NetError, Unreachable
from phr.http import Http
from phr.net import Guard
from phr.sharing.channels import trust
from phr.sharing.channels.trust import Bound, Fetch, Purpose, Verdict

if TYPE_CHECKING:  # both libraries are loaded at the first search only
    import dns.resolver
    from dns.rdtypes.ANY.CERT import CERT

PKIX: Final = 1  # RFC 4398 §2.1: the certificate itself
IPKIX: Final = 4  # the address of a certificate
UDP_SIZE: Final = 1232  # octets, so that no datagram is cut up; longer answers come over TCP
LDAP_SECONDS: Final = 5  # whole ones, as the library wants them
MOST_CERTIFICATES: Final = 16  # looked at in one place
MOST_SERVERS: Final = 4
MOST_BYTES: Final = 64 << 10  # of one certificate
SILENT: Final = "The name system gave no answer."  # then nothing more is asked: each wait is long

ADDRESS: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9-]{2,63}"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One place that was asked: its name for people, whether it led to a trusted certificate."""

    place: str
    ok: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Found:
    """The certificates to encrypt for (none: do not send), and how the search went."""

    certificates: tuple[x509.Certificate, ...]
    bound: Bound | None
    steps: tuple[Step, ...]
    passing: bool = False  # nothing found, but another try may find something

    @property
    def sentence(self) -> str:
        """Why there is nothing to send to, or that there is."""
        if self.certificates:
            return "A trusted certificate was found."
        return " ".join(f"{each.place}: {each.sentence}" for each in self.steps)


@dataclass(frozen=True, slots=True)
class Places:
    """Whom to ask: `servers` are DNS resolvers as (address, port), empty for the machine's own."""

    guard: Guard
    fetch: Fetch
    servers: Sequence[tuple[str, int]] = ()
    seconds: float = 5.0  # for one question to the name system


def places(http: Http) -> Places:
    """Return the places that an appliance asks through its own guard."""
    return Places(http.guard, trust.fetching(http), http.guard.name_servers)


def problem(address: str) -> str | None:
    """Say what is wrong with the form of a Direct address, as a sentence; None where it is good."""
    local, domain = trust.split(address)
    if len(address) > 254 or len(local) > 64 or not ADDRESS.fullmatch(address):
        return "A Direct address looks like name@direct.clinic.example."
    if any(len(label) > 63 for label in (*local.split("."), *domain.split("."))):
        return "A part of this address is longer than the name system allows."
    return None


def find(
    address: str, *, anchors: Sequence[x509.Certificate], places: Places, now: datetime
) -> Found:
    """Find what to encrypt for: DNS by address, DNS by domain, LDAP by address, LDAP by domain.

    The first step that gives a trusted certificate ends the search; certificates bound to an
    address and to a domain are never mixed. Raises InvalidInput for what is no address.
    """
    if sentence := problem(address):
        raise InvalidInput(sentence)
    local, domain = trust.split(address)
    search = _Search(address, anchors, places, now)
    for place, bound, candidates in (
        ("DNS, by address", Bound.ADDRESS, lambda: _in_dns(f"{local}.{domain}", places)),
        ("DNS, by domain", Bound.DOMAIN, lambda: _in_dns(domain, places)),
        ("LDAP, by address", Bound.ADDRESS, lambda: search.directory(address)),
        ("LDAP, by domain", Bound.DOMAIN, lambda: search.directory(domain)),
    ):
        kept = search.step(place, bound, candidates)
        if kept:
            return Found(kept, bound, tuple(search.steps))
    return Found((), None, tuple(search.steps), passing=search.passing)


class _Nothing(Exception):
    """A place had nothing to look at; the sentence says why, `passing` if that may change."""

    def __init__(self, sentence: str, *, passing: bool = False) -> None:
        super().__init__(sentence)
        self.sentence, self.passing = sentence, passing


class _Search:
    """One search: what was asked so far, and the directory once it is known."""

    def __init__(
        self, address: str, anchors: Sequence[x509.Certificate], places: Places, now: datetime
    ) -> None:
        self.steps: list[Step] = []
        self.passing = False
        self._address, self._anchors, self._places, self._now = address, anchors, places, now
        self._servers: list[tuple[str, int]] | None = None

    def step(
        self, place: str, bound: Bound, candidates: Callable[[], list[x509.Certificate]]
    ) -> tuple[x509.Certificate, ...]:
        """Ask one place, judge what it gave and write down how it went; return what is trusted."""
        if self.steps and self.steps[-1].sentence == SILENT:
            self._note(place, SILENT)
            return ()
        try:
            found = candidates()
        except _Nothing as nothing:
            self.passing = self.passing or nothing.passing
            self._note(place, nothing.sentence)
            return ()
        right = [each for each in found if trust.binding(each, self._address) is bound]
        if not right:
            self._note(place, "What is published there is for another address.")
            return ()
        verdicts = [(each, self._judged(each, found)) for each in right]
        kept = tuple(each for each, verdict in verdicts if verdict.trusted)
        if not kept:
            self.passing = self.passing or any(verdict.passing for _, verdict in verdicts)
            said = dict.fromkeys(verdict.sentence for _, verdict in verdicts)
            self._note(place, " ".join(said))
            return ()
        self.steps.append(Step(place, ok=True, sentence="A trusted certificate was found."))
        return kept

    def directory(self, wanted: str) -> list[x509.Certificate]:
        """Return the certificates in the first directory of the domain that answers."""
        if self._servers is None:
            self._servers = _directories(trust.split(self._address)[1], self._places)
        for host, port in self._servers[:MOST_SERVERS]:
            with suppress(NetError):
                return _in_directory(host, port, wanted, self._places.guard)
        raise _Nothing("No directory server of this domain could be reached.", passing=True)

    def _judged(self, certificate: x509.Certificate, beside: Iterable[x509.Certificate]) -> Verdict:
        return trust.judge(
            certificate,
            address=self._address,
            purpose=Purpose.ENCRYPT,
            anchors=self._anchors,
            intermediates=[each for each in beside if each != certificate],
            fetch=self._places.fetch,
            now=self._now,
        )

    def _note(self, place: str, sentence: str) -> None:
        self.steps.append(Step(place, ok=False, sentence=sentence))


# -------------------------------------------------------------------------------------------- DNS


def _answers(name: str, kind: str, places: Places) -> "dns.resolver.Answer | None":
    """Ask the name system; None where the name or kind does not exist. Raises _Nothing.

    A truncated answer is asked for again over TCP by the library (RFC 7766).
    """
    import dns.exception  # noqa: PLC0415 - see the top
    import dns.name  # noqa: PLC0415 - see the top
    import dns.resolver  # noqa: PLC0415 - see the top

    try:
        resolver = dns.resolver.Resolver(configure=not places.servers)
        if places.servers:
            resolver.nameservers = [host for host, _ in places.servers]
            resolver.nameserver_ports = dict(places.servers)
        resolver.lifetime = places.seconds
        resolver.use_edns(0, 0, UDP_SIZE)
        return resolver.resolve(dns.name.from_text(name), kind, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN:
        return None
    except dns.exception.Timeout:
        raise _Nothing(SILENT, passing=True) from None
    except (dns.exception.DNSException, OSError, ValueError):
        raise _Nothing("The name system gave no usable answer.", passing=True) from None


def _in_dns(name: str, places: Places) -> list[x509.Certificate]:
    """Return the certificates of the CERT records of a name (RFC 4398), the first sixteen."""
    answer = _answers(name, "CERT", places)
    records = list(answer.rrset or ()) if answer is not None else []
    found = [one for each in records[:MOST_CERTIFICATES] for one in _of_record(each, places.fetch)]
    if not records:
        raise _Nothing("No certificate is published there.")
    if not found:
        raise _Nothing("What is published there is not a certificate that can be read.")
    return found[:MOST_CERTIFICATES]


def _of_record(record: "CERT", fetch: Fetch) -> list[x509.Certificate]:
    kind = int(record.certificate_type)
    if kind == PKIX:
        return trust.read_any(record.certificate)
    if kind == IPKIX:
        with suppress(NetError, UnicodeDecodeError):
            return trust.read_any(fetch(record.certificate.decode("ascii").strip())[:MOST_BYTES])
    return []


def _directories(domain: str, places: Places) -> list[tuple[str, int]]:
    """Return the directory servers of a domain: by priority, then by weighted chance (RFC 2782)."""
    answer = _answers(f"_ldap._tcp.{domain}", "SRV", places)
    if answer is None or answer.rrset is None:
        raise _Nothing("This domain names no directory.")
    records: Sequence[Any] = answer.rrset.processing_order()
    ordered = [
        (each.target.to_text(omit_final_dot=True).rstrip("."), each.port) for each in records
    ]
    if not any(host for host, _ in ordered):  # a lone dot: decidedly not offered
        raise _Nothing("This domain says that it has no directory.")
    return ordered


# ------------------------------------------------------------------------------------------- LDAP


def _in_directory(host: str, port: int, wanted: str, guard: Guard) -> list[x509.Certificate]:
    """Return the certificates under a mail attribute; NetError where the server does not answer."""
    with closing(guard.dial(host, port, LDAP_SECONDS)) as channel:
        checked = channel.getpeername()[0]  # what is dialled below is the address that was checked
    found = [one for raw in _directory_values(checked, port, wanted) for one in trust.read_any(raw)]
    if not found:
        raise _Nothing("The directory holds no certificate for it.")
    return found[:MOST_CERTIFICATES]


def _directory_values(address: str, port: int, wanted: str) -> list[bytes]:
    """Search a directory by `mail` below each of its naming contexts, anonymously (RFC 4511)."""
    import ldap3  # noqa: PLC0415 - see the top
    from ldap3.utils.conv import escape_filter_chars  # noqa: PLC0415 - see the top

    server = ldap3.Server(
        address,
        port=port,
        get_info=ldap3.DSA,
        connect_timeout=LDAP_SECONDS,
        allowed_referral_hosts=[],
    )
    try:
        with ldap3.Connection(
            server,
            receive_timeout=LDAP_SECONDS,
            read_only=True,
            auto_referrals=False,
            raise_exceptions=False,
        ) as directory:
            contexts = server.info.naming_contexts if server.info is not None else []
            values = _values(directory, contexts, f"(mail={escape_filter_chars(wanted)})")
            return [each for each in values if len(each) <= MOST_BYTES][:MOST_CERTIFICATES]
    except Exception as problem:
        raise Unreachable from problem


def _values(directory: Any, contexts: Sequence[str], wanted: str) -> Iterator[bytes]:
    for context in contexts[:MOST_SERVERS]:
        for attribute in ("userCertificate;binary", "userCertificate"):
            directory.search(
                context,
                wanted,
                attributes=[attribute],
                size_limit=MOST_CERTIFICATES,
                time_limit=LDAP_SECONDS,
            )
            raw = [
                value
                for entry in directory.response or ()
                for value in entry.get("raw_attributes", {}).get(attribute, ())
            ]
            yield from raw
            if raw:
                break

"""Finding certificates as ONC's Direct Certificate Discovery Tool asks it: D1-D18 and H1-H4.

Knot serves the CERT and SRV records, slapd the directories; what each case publishes is the tool's.
"""

import base64
import contextlib
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography import x509

from phr import clock
from phr.errors import InvalidInput
from phr.http import Http
from phr.net import Guard
from phr.sharing.channels import discovery, identity, trust
from phr.sharing.channels.discovery import Found, Places
from phr.sharing.channels.trust import Bound
from tests.fixtures_direct import DAY, Authority, cert_line, der, directory, free_port, knot
from tests.fixtures_net import RawServer, plain

ZONE = "dcdt.test"
LONG = f"http://127.0.0.1/{'x' * 300}"  # never asked: the issuer is the anchor
OLD = {"begins": -10 * DAY, "ends": -DAY}


def entry(mail: str, *certificates: x509.Certificate) -> str:
    lines = [f"dn: cn={mail},o=direct", "objectClass: inetOrgPerson", f"cn: {mail}", "sn: x"]
    lines.append(f"mail: {mail}")
    lines += [
        f"userCertificate;binary:: {base64.b64encode(der(each)).decode()}" for each in certificates
    ]
    return "\n".join(lines) + "\n"


@dataclass
class World:
    """What is published, and the programs that publish it, for all cases at once."""

    root: Authority
    below: Authority
    web: RawServer
    ports: dict[str, int]
    zone: list[str] = field(default_factory=list)
    entries: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, x509.Certificate] = field(default_factory=dict)
    server: tuple[str, int] = ("", 0)

    def dns(self, case: str, name: str, certificate: x509.Certificate) -> None:
        self.zone.append(
            cert_line(
                f"{case}.{ZONE}" if name == "@" else f"{name}.{case}.{ZONE}", der(certificate)
            )
        )

    def srv(self, case: str, *rows: tuple[int, int, str]) -> None:
        for priority, weight, host in rows:
            port = self.ports[host]
            self.zone.append(
                f"_ldap._tcp.{case}.{ZONE}. SRV {priority} {weight} {port} {host}.{ZONE}.\n"
            )

    def ldap(self, host: str, mail: str, *certificates: x509.Certificate) -> None:
        self.entries.setdefault(host, []).append(entry(mail, *certificates))

    def valid(
        self, case: str, bound: Bound = Bound.ADDRESS, name: str = "", **more: Any
    ) -> x509.Certificate:
        who = {"address": mail(case)} if bound is Bound.ADDRESS else {"domain": f"{case}.{ZONE}"}
        return self.names.setdefault(name or case, self.root.issue(**who, **more))

    def old(self, case: str, bound: Bound = Bound.ADDRESS) -> x509.Certificate:
        return self.valid(case, bound, f"{case}-old-{bound}", **OLD)

    def find(self, case: str, local: str = "dr") -> Found:
        allowed = [f"{host}.{ZONE}:{port}" for host, port in self.ports.items()]
        guard = Guard(
            [*allowed, self.web.place],
            resolver=lambda _, port: [(socket.AF_INET, ("127.0.0.1", port))],
        )
        http = Http(guard)
        try:
            places = Places(guard, trust.fetching(http), [self.server])
            return discovery.find(
                f"{local}@{case}.{ZONE}",
                anchors=[self.root.certificate],
                places=places,
                now=clock.now(),
            )
        finally:
            http.close()


def mail(case: str) -> str:
    return f"dr@{case}.{ZONE}"


def publish(world: World) -> None:
    """Publish what the tool publishes for D1-D18 and what our own pages say for H1-H4."""
    _single_places(world)
    _servers_and_lists(world)
    _beyond_the_tool(world)
    _our_own(world)


def _single_places(world: World) -> None:
    valid, old = world.valid, world.old
    # D1, D2: background ones of the other kinds are invalid.
    world.dns("d1", "dr", valid("d1"))
    world.dns("d1", "@", old("d1", Bound.DOMAIN))
    world.dns("d2", "@", valid("d2", Bound.DOMAIN))
    for case in ("d1", "d2"):
        world.srv(case, (0, 0, "ldap1"))
        world.ldap("ldap1", mail(case), old(case))
        world.ldap("ldap1", f"{case}.{ZONE}", old(case, Bound.DOMAIN))
    # D3, D4: only in the directory.
    world.ldap("ldap1", mail("d3"), valid("d3"))
    world.ldap("ldap1", f"d3.{ZONE}", old("d3", Bound.DOMAIN))
    world.ldap("ldap1", f"d4.{ZONE}", valid("d4", Bound.DOMAIN))
    # D5-D8: only invalid ones, in each place.
    world.dns("d5", "dr", old("d5"))
    world.dns("d6", "@", old("d6", Bound.DOMAIN))
    world.ldap("ldap1", mail("d7"), old("d7"))
    world.ldap("ldap1", f"d8.{ZONE}", old("d8", Bound.DOMAIN))
    for case in ("d3", "d4", "d7", "d8"):
        world.srv(case, (0, 0, "ldap1"))
    # D9: a valid and an invalid one under one name (two certificates: over 1,232 octets).
    world.dns("d9", "dr", old("d9"))
    world.dns("d9", "dr", valid("d9"))


def _servers_and_lists(world: World) -> None:
    root, names, valid, old = world.root, world.names, world.valid, world.old
    # D10: the first server of the directory is down. D12: the only one is.
    world.srv("d10", (0, 0, "down"), (1, 0, "ldap2"))
    world.ldap("ldap2", mail("d10"), valid("d10"))
    world.srv("d12", (0, 0, "down"))
    # D13: a directory without this address.
    world.srv("d13", (0, 0, "ldap1"))
    # D14: one large certificate (a 4,096-bit key: over 512 octets and over 1,232).
    world.dns("d14", "dr", valid("d14", number=4, bits=4096, issuers_at=LONG))
    # D15: priority goes before everything. D16: weight decides among equals.
    world.srv("d15", (0, 0, "ldap1"), (1, 65535, "ldap2"))
    world.ldap("ldap1", mail("d15"), valid("d15"))
    world.ldap("ldap2", mail("d15"), old("d15"))
    world.srv("d16", (0, 65535, "ldap1"), (0, 0, "ldap2"))
    world.ldap("ldap1", mail("d16"), valid("d16"))
    world.ldap("ldap2", mail("d16"), valid("d16", name="d16-light"))
    # D17: two revoked ones beside a good one. D18: the issuer is to be fetched.
    lists = {"lists_at": f"{world.web.url}/list.crl"}
    for number in (1, 2):
        revoked = valid("d17", name=f"d17-revoked-{number}", **lists)
        root.revoked.append(revoked.serial_number)
        world.dns("d17", "dr", revoked)
    world.dns("d17", "dr", valid("d17", **lists))
    issuers = f"{world.web.url}/issuer.cer"
    names["d18"] = world.below.issue(mail("d18"), issuers_at=issuers)
    world.dns("d18", "dr", names["d18"])
    world.dns("d18", "@", old("d18", Bound.DOMAIN))


def _beyond_the_tool(world: World) -> None:
    root, names, valid = world.root, world.names, world.valid
    # the address of a certificate, junk, a forged one, two addresses of one name.
    names["ipkix"] = root.issue(mail("ipkix"))
    world.zone.append(cert_line(f"dr.ipkix.{ZONE}", f"{world.web.url}/ipkix.cer".encode(), "IPKIX"))
    for number, junk in enumerate((b"junk", b"http://127.0.0.1:1/\xff")):
        world.zone.append(cert_line(f"dr.junk.{ZONE}", junk, ("PKIX", "IPKIX")[number]))
    forged = Authority(root.name, number=1009).issue(mail("forged"))
    world.dns("forged", "dr", forged)
    world.dns("forged", "dr", valid("forged"))
    world.dns("alike", "dr", root.issue(f"x@dr.alike.{ZONE}"))
    world.dns("mixed", "dr", valid("mixed", Bound.DOMAIN))
    world.zone.append(f"_ldap._tcp.none.{ZONE}. SRV 0 0 0 .\n")


def _our_own(world: World) -> None:
    names = world.names
    # H1-H4: from the lines our pages show.
    own = identity.root("Household", now=clock.now())
    world.names["own root"] = own.certificate
    for case, bound in (("h1", Bound.ADDRESS), ("h2", Bound.DOMAIN)):
        names[case] = identity.issue(own, mail(case), bound, now=clock.now()).certificate
        world.zone.append(identity.zone_lines(mail(case), [names[case]]))
    for case, bound in (("h3", Bound.ADDRESS), ("h4", Bound.DOMAIN)):
        names[case] = identity.issue(own, mail(case), bound, now=clock.now()).certificate
        world.srv(case, (0, 0, "ldap1"))
        lines = identity.directory_entry(mail(case), [names[case]])
        world.entries.setdefault("ldap1", []).append(lines)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("dcdt")
    root = Authority()
    below = Authority("Between", number=1003, parent=root)
    served: dict[str, Callable[[], bytes]] = {
        "/list.crl": root.revocations,
        "/issuer.cer": lambda: der(below.certificate),
        "/ipkix.cer": lambda: der(made.names["ipkix"]),
    }

    def reply(request: bytes, channel: socket.socket) -> None:
        path = request.split(b" ")[1].decode()
        channel.sendall(plain(served[path]() if path in served else b"", "200 OK"))

    web = RawServer(reply)
    made = World(root, below, web, {"ldap1": 0, "ldap2": 0, "down": free_port()})
    with contextlib.ExitStack() as stack:
        stack.callback(web.close)
        made.ports |= {"ldap1": free_port(), "ldap2": free_port()}
        publish(made)
        for host in ("ldap1", "ldap2"):
            stack.enter_context(directory(folder / host, made.ports[host], *made.entries[host]))
        made.server = stack.enter_context(knot(folder / "knot", ZONE, "".join(made.zone)))
        yield made


# ---------------------------------------------------------------------------- D1-D18, as published


@pytest.mark.parametrize(
    ("case", "bound", "place"),
    [
        ("d1", Bound.ADDRESS, "DNS, by address"),
        ("d2", Bound.DOMAIN, "DNS, by domain"),
        ("d3", Bound.ADDRESS, "LDAP, by address"),
        ("d4", Bound.DOMAIN, "LDAP, by domain"),
        ("d9", Bound.ADDRESS, "DNS, by address"),
        ("d10", Bound.ADDRESS, "LDAP, by address"),
        ("d14", Bound.ADDRESS, "DNS, by address"),
        ("d15", Bound.ADDRESS, "LDAP, by address"),
        ("d16", Bound.ADDRESS, "LDAP, by address"),
        ("d17", Bound.ADDRESS, "DNS, by address"),
        ("d18", Bound.ADDRESS, "DNS, by address"),
    ],
)
def test_the_valid_certificate_is_found_where_it_is(
    world: World, case: str, bound: Bound, place: str
) -> None:
    found = world.find(case)
    assert found.certificates == (world.names[case],), found.sentence
    assert found.bound is bound
    assert found.steps[-1].place == place
    assert found.steps[-1].ok
    assert not any(each.ok for each in found.steps[:-1])


@pytest.mark.parametrize(
    ("case", "words", "passing"),
    [
        ("d5", {"DNS, by address": "has expired", "LDAP, by address": "names no directory"}, False),
        ("d6", {"DNS, by domain": "has expired", "LDAP, by domain": "names no directory"}, False),
        ("d7", {"DNS, by address": "No certificate", "LDAP, by address": "has expired"}, False),
        ("d8", {"LDAP, by address": "holds no certificate", "LDAP, by domain": "expired"}, False),
        ("d11", {"DNS, by domain": "No certificate", "LDAP, by domain": "no directory"}, False),
        ("d12", {"LDAP, by address": "could be reached", "LDAP, by domain": "reached"}, True),
        ("d13", {"LDAP, by address": "holds no", "LDAP, by domain": "holds no"}, False),
    ],
)
def test_nothing_is_sent_where_there_is_no_valid_one_and_each_step_says_why(
    world: World, case: str, words: dict[str, str], passing: bool
) -> None:
    found = world.find(case)
    assert found.certificates == ()
    said = {each.place: each.sentence for each in found.steps}
    assert len(said) == 4
    for place, word in words.items():
        assert word in said[place]
        assert said[place] in found.sentence
    assert found.passing is passing


def test_what_is_published_needs_tcp(world: World) -> None:
    """D9 and D14 prove the second question only if their answers really do not fit a datagram."""
    import dns.flags
    import dns.message
    import dns.query

    for name in ("dr.d9", "dr.d14"):
        question = dns.message.make_query(f"{name}.{ZONE}.", "CERT", use_edns=0, payload=1232)
        answer = dns.query.udp(question, world.server[0], 5, port=world.server[1])
        assert answer.flags & dns.flags.TC
    plain_question = dns.message.make_query(f"dr.d1.{ZONE}.", "CERT")  # no EDNS: 512 octets
    answer = dns.query.udp(plain_question, world.server[0], 5, port=world.server[1])
    assert answer.flags & dns.flags.TC


# -------------------------------------------------------------------------------- beyond the tool


def test_a_certificate_may_be_published_as_an_address(world: World) -> None:
    assert world.find("ipkix").certificates == (world.names["ipkix"],)


def test_what_is_no_certificate_is_said_to_be_none(world: World) -> None:
    found = world.find("junk")
    assert found.certificates == ()
    assert "cannot be read" not in found.steps[1].sentence
    assert "not a certificate that can be read" in found.steps[0].sentence


def test_a_forged_certificate_in_the_same_name_is_dropped_and_the_real_one_used(
    world: World,
) -> None:
    assert world.find("forged").certificates == (world.names["forged"],)


def test_another_address_of_the_same_name_is_not_taken(world: World) -> None:
    found = world.find("alike")  # dr@alike and x@dr.alike would share names under dr.alike
    assert found.certificates == ()
    assert "another address" in found.steps[0].sentence


def test_a_domains_certificate_under_the_address_is_not_mixed_in(world: World) -> None:
    found = world.find("mixed")
    assert found.certificates == ()
    assert "another address" in found.steps[0].sentence


def test_a_domain_can_say_that_it_has_no_directory(world: World) -> None:
    assert "says that it has no directory" in world.find("none").steps[2].sentence


def test_a_silent_name_system_is_a_reason_to_try_again(world: World) -> None:
    guard = Guard()
    silent = [("127.0.0.1", world.ports["down"])]
    places = Places(guard, lambda _: b"", silent, seconds=0.3)
    found = discovery.find(
        mail("d1"), anchors=[world.root.certificate], places=places, now=clock.now()
    )
    assert found.passing
    assert all("gave no answer" in each.sentence for each in found.steps)


def test_a_directory_inside_the_house_is_not_asked(world: World) -> None:
    guard = Guard(resolver=lambda _, port: [(socket.AF_INET, ("127.0.0.1", port))])
    places = Places(guard, lambda _: b"", [world.server])
    found = discovery.find(
        mail("d3"), anchors=[world.root.certificate], places=places, now=clock.now()
    )
    assert found.certificates == ()
    assert "could be reached" in found.steps[2].sentence


@pytest.mark.parametrize(
    "address",
    [
        *("", "dr", "dr@", "@x.test", "dr@x", "d r@x.test", "dr@x.test\r\nBcc: y", "ä@x.test"),
        *("a@b@c.test", f"{'a' * 65}@x.test", f"a@{'b' * 64}.test", ".a@x.test", "a..b@x.test"),
    ],
)
def test_what_is_no_address_is_not_looked_for(address: str) -> None:
    assert discovery.problem(address)
    with pytest.raises(InvalidInput):
        discovery.find(address, anchors=[], places=Places(Guard(), lambda _: b""), now=clock.now())


# ------------------------------------------------------------------ H1-H4: hosting all four of ours


@pytest.mark.parametrize("case", ["h1", "h2", "h3", "h4"])
def test_our_own_published_certificates_are_found(world: World, case: str) -> None:
    other = World(world.root, world.below, world.web, world.ports, server=world.server)
    other.root = Authority("Other", number=1008)
    other.root.certificate = world.names["own root"]
    found = other.find(case)
    assert found.certificates == (world.names[case],), found.sentence
    assert found.bound is (Bound.ADDRESS if case in {"h1", "h3"} else Bound.DOMAIN)


@pytest.mark.parametrize("case", ["h1", "h2"])
def test_a_stranger_reads_our_lines_of_the_zone(world: World, case: str) -> None:
    kdig = shutil.which("kdig") or pytest.skip("kdig is not installed (package knot-dnsutils)")
    name = f"dr.{case}.{ZONE}" if case == "h1" else f"{case}.{ZONE}"
    host, port = world.server
    asked = [kdig, f"@{host}", "-p", str(port), "+tcp", "+short", name, "CERT"]
    said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    assert base64.b64decode("".join(said.split()[3:])) == der(world.names[case])


@pytest.mark.parametrize("case", ["h3", "h4"])
def test_a_stranger_reads_our_entry_of_the_directory(world: World, case: str) -> None:
    search = shutil.which("ldapsearch") or pytest.skip(
        "ldapsearch is not installed (package ldap-utils)"
    )
    wanted = mail(case) if case == "h3" else f"{case}.{ZONE}"
    asked = [search, "-x", "-LLL", "-o", "ldif-wrap=no", "-b", "o=direct", f"(mail={wanted})"]
    asked += ["-H", f"ldap://127.0.0.1:{world.ports['ldap1']}/", "userCertificate;binary"]
    said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    _, _, encoded = said.partition("userCertificate;binary:: ")
    assert base64.b64decode(encoded.split()[0]) == der(world.names[case])


def test_a_wildcard_in_an_address_asks_for_nobody_else(world: World) -> None:
    """An address goes into a search filter: its stars and brackets are letters there."""
    found = world.find("d3", local="*")
    assert found.certificates == ()
    assert "holds no certificate" in found.steps[2].sentence

"""Peers of Direct: issuers of certificates of every kind, Knot DNS, and slapd, as real programs."""

import base64
import contextlib
import fcntl
import functools
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import keys
from asn1crypto import x509 as foreign
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import (
    AuthorityInformationAccessOID,
    ExtendedKeyUsageOID,
    NameOID,
)

from phr import clock

DAY = timedelta(days=1)


@functools.cache
def _key(_number: int, bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def key(number: int, bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return the key of this number: made once, for keys cost time."""
    return _key(number, bits)


def with_exponent_one(certificate: x509.Certificate) -> bytes:
    """Return a certificate (DER) whose RSA key has e=1: with it, encrypting changes nothing."""
    made = foreign.Certificate.load(certificate.public_bytes(Encoding.DER))
    whose = made["tbs_certificate"]["subject_public_key_info"]["public_key"].parsed
    made["tbs_certificate"]["subject_public_key_info"]["public_key"] = keys.RSAPublicKey(
        {"modulus": whose["modulus"].native, "public_exponent": 1}
    )
    return made.dump(force=True)


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass
class Authority:
    """An issuer: a root, or one below `parent`."""

    name: str = "Test root"
    number: int = 1000  # of its key
    parent: "Authority | None" = None
    issuers_at: str | None = None  # where its own certificate's issuer can be fetched
    revoked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = key(self.number)
        above = self.parent or self
        self.certificate = _made(
            named(self.name),
            named(above.name),
            self.key.public_key(),
            above.key,
            [
                (x509.BasicConstraints(ca=True, path_length=None), True),
                (_usage(key_cert_sign=True, crl_sign=True), True),
                (x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False),
                *_issued_by(self.issuers_at),
            ],
        )

    def issue(
        self,
        address: str | None = None,
        *,
        domain: str | None = None,
        number: int = 1,
        bits: int = 2048,
        begins: timedelta = -DAY,
        ends: timedelta = 365 * DAY,
        usage: Sequence[str] = ("digital_signature", "key_encipherment"),
        purposes: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.EMAIL_PROTECTION,),
        hashed: hashes.HashAlgorithm | None = None,
        lists_at: str | None = None,
        issuers_at: str | None = None,
        subject: str = "Test",
    ) -> x509.Certificate:
        """Issue a certificate for an address, a domain or both, in date or not."""
        names: list[x509.GeneralName] = []
        names += [x509.RFC822Name(address)] if address else []
        names += [x509.DNSName(domain)] if domain else []
        more: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(**dict.fromkeys(usage, True)), True),
            (x509.ExtendedKeyUsage(purposes), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False),
            *_issued_by(issuers_at),
        ]
        if names:
            more.append((x509.SubjectAlternativeName(names), False))
        if lists_at:
            place = x509.UniformResourceIdentifier(lists_at)
            point = x509.DistributionPoint([place], None, None, None)
            more.append((x509.CRLDistributionPoints([point]), False))
        return _made(
            named(subject),
            named(self.name),
            key(number, bits).public_key(),
            self.key,
            more,
            begins=begins,
            ends=ends,
            hashed=hashed,
        )

    def look_alike(self, address: str, *, number: int = 3) -> x509.Certificate:
        """Return a forgery: this issuer's name and key identifiers, another key's signature.

        The reference implementation trusts by subject key identifier alone; whoever makes a
        certificate chooses it.
        """
        ours = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        return _made(
            named("x"),
            named(self.name),
            key(number).public_key(),
            key(1002),
            [
                (x509.SubjectAlternativeName([x509.RFC822Name(address)]), False),
                (ours, False),
                (x509.AuthorityKeyIdentifier(ours.digest, None, None), False),
            ],
        )

    def outdated(
        self, address: str, digest: str, folder: Path, *, number: int = 1
    ) -> x509.Certificate:
        """Issue a certificate signed over an old digest, by OpenSSL: the library here refuses."""
        openssl = installed("openssl", "openssl")
        for name, secret in (("ca.key", self.key), ("key", key(number))):
            (folder / name).write_bytes(private(secret))
        (folder / "ca.pem").write_bytes(self.certificate.public_bytes(Encoding.PEM))
        (folder / "ext").write_text(f"subjectAltName=email:{address}\n")
        ask = [openssl, "req", "-new", "-key", "key", "-subj", "/CN=x", "-out", "csr"]
        subprocess.run(ask, cwd=folder, check=True, capture_output=True)
        sign = [openssl, "x509", "-req", f"-{digest}", "-in", "csr", "-CA", "ca.pem", "-CAkey"]
        sign += ["ca.key", "-CAcreateserial", "-days", "9", "-extfile", "ext", "-out", "cert.pem"]
        subprocess.run(sign, cwd=folder, check=True, capture_output=True)
        return x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())

    def revocations(self) -> bytes:
        """Return its list of what it revoked, as DER."""
        now = clock.now()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(named(self.name))
            .last_update(now - DAY)
            .next_update(now + 7 * DAY)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .add_extension(x509.CRLNumber(1), critical=False)
        )
        for serial in self.revoked:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial)
            builder = builder.add_revoked_certificate(revoked.revocation_date(now - DAY).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)


def _issued_by(url: str | None) -> list[tuple[x509.ExtensionType, bool]]:
    if url is None:
        return []
    place = x509.UniformResourceIdentifier(url)
    access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, place)
    return [(x509.AuthorityInformationAccess([access]), False)]


def _usage(**given: bool) -> x509.KeyUsage:
    names = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ]
    return x509.KeyUsage(**{**dict.fromkeys(names, False), **given})


def _made(
    subject: x509.Name,
    issuer: x509.Name,
    public: rsa.RSAPublicKey,
    signing: rsa.RSAPrivateKey,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
    *,
    begins: timedelta = -DAY,
    ends: timedelta = 3650 * DAY,
    hashed: hashes.HashAlgorithm | None = None,
) -> x509.Certificate:
    now: datetime = clock.now()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signing, hashed or hashes.SHA256())


def private(secret: rsa.RSAPrivateKey) -> bytes:
    """Return a private key as other programs read it."""
    return secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def cert_line(name: str, data: bytes, kind: str = "PKIX") -> str:
    """Return a line of a zone: a CERT record under a whole name."""
    return f"{name}. CERT {kind} 0 0 {base64.b64encode(data).decode()}\n"


# ------------------------------------------------------------------------------------- programs


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free for UDP and TCP just now."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            with contextlib.suppress(OSError):
                udp.bind(("127.0.0.1", port))
                return port


def installed(program: str, package: str) -> str:
    """Return where a Debian program is, or skip by name (CI does not allow the skip)."""
    path = f"/usr/sbin:/usr/bin:{Path('/usr/local/sbin')}"
    return shutil.which(program, path=path) or pytest.skip(
        f"{program} is not installed (Debian package {package})"
    )


@contextlib.contextmanager
def running(command: Sequence[str], ready: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a server in the foreground from the line that holds `ready` until the end."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if ready in line:
                break
        else:
            pytest.fail(f"{command[0]} did not start: {''.join(said)}")
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        yield process
    finally:
        process.terminate()
        process.wait(10)
        with contextlib.suppress(NameError):
            drain.join(5)
        process.stdout.close()


@contextlib.contextmanager
def knot(
    folder: Path, zone: str, lines: str, *, port: int | None = None
) -> Iterator[tuple[str, int]]:
    """Run Knot DNS with one zone; yield where it answers."""
    program = installed("knotd", "knot")
    port = port or free_port()
    folder.mkdir()
    (folder / "zone").write_text(
        f"$ORIGIN {zone}.\n$TTL 3600\n"
        "@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n" + lines
    )
    (folder / "knot.conf").write_text(
        f"""
server:
    rundir: "{folder}"
    listen: 127.0.0.1@{port}
    background-workers: 1
    udp-workers: 1
    tcp-workers: 1
log:
  - target: stdout
    any: info
database:
    storage: "{folder}"
zone:
  - domain: {zone}
    storage: "{folder}"
    file: zone
"""
    )
    with running([program, "-c", str(folder / "knot.conf")], "server started"):
        yield "127.0.0.1", port


@contextlib.contextmanager
def directory(folder: Path, port: int, *entries: str) -> Iterator[None]:
    """Run slapd at a port with these entries (LDIF) below o=direct."""
    program, load = installed("slapd", "slapd"), installed("slapadd", "slapd")
    (folder / "db").mkdir(parents=True)
    schemas = "\n".join(
        f"include /etc/ldap/schema/{each}.schema" for each in ("core", "cosine", "inetorgperson")
    )
    (folder / "slapd.conf").write_text(
        f"{schemas}\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {folder}/pid\n"
        f'database mdb\nsuffix "o=direct"\ndirectory {folder}/db\n'
    )
    base = "dn: o=direct\nobjectClass: organization\no: direct\n"
    (folder / "entries.ldif").write_text("\n".join((base, *entries)))
    settings = str(folder / "slapd.conf")
    subprocess.run(
        [load, "-f", settings, "-l", str(folder / "entries.ldif")],
        check=True,
        capture_output=True,
    )
    command = [program, "-f", settings, "-h", f"ldap://127.0.0.1:{port}/", "-d", "stats"]
    with running(command, "slapd starting"):
        yield


# ----------------------------------------------------------------------------------------- mail


@dataclass
class Mailbox:
    """An SMTP server that keeps what it is given; `answer` may say otherwise after DATA."""

    answer: str = "250 kept"
    refuse: str = ""  # said to RCPT
    login: tuple[str, str] | None = None
    got: list[Any] = field(default_factory=list)  # aiosmtpd's Envelopes
    came: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    async def handle_RCPT(self, *given: Any) -> str:  # noqa: N802 - aiosmtpd's name
        _server, _session, envelope, to, _options = given
        if self.refuse:
            return self.refuse
        envelope.rcpt_tos.append(to)
        return "250 OK"

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - as above
        if self.answer == "break":
            server.transport.abort()
            return "421 gone"
        if self.answer.startswith("250"):
            self.got.append(envelope)
            self.came.set()
        return self.answer

    def wait(self, count: int = 1) -> list[Any]:
        """Return what came once so many messages are there; fail after half a minute."""
        for _ in range(600):
            if len(self.got) >= count:
                return self.got
            self.came.clear()
            self.came.wait(0.05)
        pytest.fail(f"{len(self.got)} of {count} messages came")

    def authenticate(
        self, _server: Any, _session: Any, _envelope: Any, _how: str, data: Any
    ) -> Any:
        from aiosmtpd.smtp import AuthResult

        given = (data.login.decode(), data.password.decode())
        return AuthResult(success=given == self.login, handled=given == self.login)


@contextlib.contextmanager
def mailbox(box: Mailbox, tls: ssl.SSLContext | None = None) -> Iterator[Mailbox]:
    """Run a mailbox on a free port; with `tls` it offers STARTTLS, with a login it wants one."""
    from aiosmtpd.controller import Controller

    box.port = free_port()
    controller = Controller(
        box,
        hostname="127.0.0.1",
        port=box.port,
        tls_context=tls,
        require_starttls=tls is not None,
        auth_required=box.login is not None,
        authenticator=box.authenticate,
        data_size_limit=40 << 20,
    )
    controller.start()
    try:
        yield box
    finally:
        controller.stop()


@contextlib.contextmanager
def mail_server(
    folder: Path, onwards: int | Mapping[str, int], *, port: int | None = None
) -> Iterator[int]:
    """Run OpenSMTPD, which relays what it takes to ports of this machine; yield its own port.

    `onwards`: one port for all, or one for each domain; it should listen already, for a place that
    does not is left alone for minutes. One at a time: queue and control socket have one place on a
    machine, and what another run left in the queue may come first.
    """
    program = installed("smtpd", "opensmtpd")
    port = port or free_port()
    folder.mkdir()
    to = (
        {f'domain "{domain}"': place for domain, place in onwards.items()}
        if isinstance(onwards, Mapping)
        else {"any": onwards}
    )
    lines = [f"listen on 127.0.0.1 port {port}"]
    for number, place in enumerate(to.values()):
        lines.append(f'action "on{number}" relay host smtp://127.0.0.1:{place}')
    for number, whom in enumerate(to):
        lines.append(f'match from any for {whom} action "on{number}"')
    (folder / "smtpd.conf").write_text("\n".join(lines) + "\n")
    with (Path(tempfile.gettempdir()) / "homeport-smtpd.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        command = [program, "-d", "-f", str(folder / "smtpd.conf")]
        with running(command, "OpenSMTPD"):
            until_it_listens(port)
            yield port


def until_it_listens(port: int) -> None:
    pause = threading.Event()
    for _ in range(200):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        pause.wait(0.05)
    pytest.fail("the mail server does not listen")

"""A provider for Direct mail: Dovecot holds the mailboxes, and hands them out by IMAP over TLS.

What is submitted is taken by aiosmtpd (STARTTLS, a password) and goes to Dovecot: OpenSMTPD of
Debian 12 cannot end TLS ("missing private key", its engine does not work with OpenSSL 3).
"""

import asyncio
import contextlib
import os
import smtplib
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from phr import clock
from tests.fixtures_direct import (
    Authority,
    Mailbox,
    free_port,
    installed,
    mailbox,
    named,
    running,
    until_it_listens,
)

PASSWORD = 'correct-"horse"-stäple'
HOST = "localhost"
NOBODY = 65534


@dataclass(frozen=True)
class Provider:
    """Where it reads and hands out mail; `tls` trusts its private issuer."""

    folder: Path
    imap: int
    lmtp: int
    tls: ssl.SSLContext
    root: Path  # its issuer's certificate, PEM
    pair: tuple[Path, Path]  # certificate and key of the servers

    def delivered(self, raw: bytes, to: str, *, sender: str = "pell@clinic.example") -> None:
        """Put a mail into a mailbox, as the provider's own servers do (LMTP, RFC 2033)."""
        with smtplib.LMTP("127.0.0.1", self.lmtp) as line:
            line.sendmail(sender, [to], raw)

    def asked(self, *command: str) -> str:
        """Ask Dovecot itself about a mailbox, or change it (doveadm(1))."""
        program = [installed("doveadm", "dovecot-imapd"), "-c", str(self.folder / "dovecot.conf")]
        done = subprocess.run([*program, *command], check=True, capture_output=True, text=True)
        return done.stdout


def certificate(folder: Path) -> tuple[Path, tuple[Path, Path]]:
    """Write a certificate for `HOST` below an issuer of its own: (issuer, (certificate, key))."""
    root, now = Authority("Provider root", number=1007), clock.now()
    own = ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder()
        .subject_name(named(HOST))
        .issuer_name(named(root.name))
        .public_key(own.public_key())
        .serial_number(9)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key()),
            critical=False,
        )
        .sign(root.key, hashes.SHA256())
    )
    paths = folder / "root.pem", folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(root.certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(made.public_bytes(Encoding.PEM))
    paths[2].write_bytes(own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    paths[2].chmod(0o600)
    return paths[0], (paths[1], paths[2])


@contextlib.contextmanager
def provider() -> Iterator[Provider]:
    """Run Dovecot with a mailbox for everybody who knows `PASSWORD`."""
    program = installed("dovecot", "dovecot-imapd")
    if os.geteuid() != 0:
        pytest.skip("Dovecot becomes somebody else for each mailbox, which only root can")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # for whom it becomes
        yield from _running(program, Path(name))


def _running(program: str, folder: Path) -> Iterator[Provider]:
    root, pair = certificate(folder)
    imap, lmtp = free_port(), free_port()
    (folder / "mail").mkdir()
    os.chown(folder / "mail", NOBODY, NOBODY)
    (folder / "dovecot.conf").write_text(
        f"""
base_dir = {folder}/run
state_dir = {folder}/state
log_path = /dev/stderr
protocols = imap lmtp
listen = 127.0.0.1
ssl = required
ssl_cert = <{pair[0]}
ssl_key = <{pair[1]}
auth_mechanisms = plain
passdb {{
  driver = static
  args = password={PASSWORD}
}}
userdb {{
  driver = static
  args = uid={NOBODY} gid={NOBODY} home={folder}/mail/%u allow_all_users=yes
}}
mail_location = maildir:~/box
first_valid_uid = 1
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
service anvil {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {imap}
    ssl = yes
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
"""
    )
    with running([program, "-F", "-c", str(folder / "dovecot.conf")], "starting up"):
        until_it_listens(imap)
        until_it_listens(lmtp)
        yield Provider(folder, imap, lmtp, ssl.create_default_context(cafile=str(root)), root, pair)


@dataclass
class Onwards(Mailbox):
    """A submission server that puts what it takes into the mailboxes of `there`."""

    there: Provider | None = None

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        assert self.there is not None
        for to in envelope.rcpt_tos:
            given = (envelope.content, to)
            await asyncio.to_thread(self.there.delivered, *given, sender=envelope.mail_from)
        return await super().handle_DATA(server, session, envelope)


@contextlib.contextmanager
def submission(there: Provider, login: str) -> Iterator[int]:
    """Run the provider's submission for one login; yield its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*there.pair)
    with mailbox(Onwards(login=(login, PASSWORD), there=there), context) as box:
        yield box.port

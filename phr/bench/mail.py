"""Direct mail: sealing a message beside OpenSSL, and handing it over beside a bare SMTP client.

The mail server is one of aiosmtpd on loopback in a process of its own, which keeps nothing.
"""

import asyncio
import contextlib
import multiprocessing
import os
import shutil
import smtplib
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from phr import clock, ids
from phr.bench.peak import high_water
from phr.bench.row import Row
from phr.net import Guard
from phr.sharing.channels import identity, mime, smime, submission
from phr.sharing.channels.identity import Identity
from phr.sharing.channels.submission import Server
from phr.sharing.channels.trust import Bound

SENDER, RECIPIENT = "juniper@home.example", "pell@clinic.example"
MIB: Final = 1 << 20
ROUNDS: Final = 5
MESSAGES: Final = 1000
SIZE: Final = 16 << 10  # bytes of each message


def measured(quick: bool) -> list[Row]:
    """Return the rows; nothing is measured where there is no OpenSSL to be held against."""
    with TemporaryDirectory() as name:
        return [*_sealing(Path(name), quick), *_handing_over(quick)]


# ------------------------------------------------------------------ sign and encrypt


def _identity() -> Identity:
    now = clock.now()
    return identity.issue(identity.root(SENDER, now=now), SENDER, Bound.ADDRESS, now=now)


def _sealing(folder: Path, quick: bool) -> list[Row]:
    openssl = shutil.which("openssl")
    if openssl is None:
        return []
    own = _identity()
    entity = mime.in_base64([("Content-Type", "application/octet-stream")], ids.random_bytes(MIB))
    (folder / "cert.pem").write_bytes(own.certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(
        own.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "entity").write_bytes(entity)
    sign = [openssl, "cms", "-sign", "-binary", "-md", "sha256", "-signer", "cert.pem"]
    sign += ["-inkey", "key.pem", "-in", "entity", "-out", "signed"]
    seal = [openssl, "cms", "-encrypt", "-binary", "-aes256", "-in", "signed", "-out", "sealed"]
    seal += ["-recip", "cert.pem", "-keyopt", "rsa_padding_mode:oaep"]

    def ours() -> None:
        signed = smime.sign(entity, certificate=own.certificate, key=own.key, now=clock.now())
        smime.encrypt(signed, [own.certificate])

    def theirs() -> None:
        for command in (sign, seal):
            subprocess.run(command, cwd=folder, check=True)  # noqa: S603  fixed words

    ours()
    pairs = [(_cpu(ours), _cpu(theirs)) for _ in range(1 if quick else ROUNDS)]
    mine, limit = (1 / statistics.median(each) for each in zip(*pairs, strict=True))
    bar = ">= 0.7 of openssl cms doing the same"
    return [Row("mail.seal_1MiB", mine, "MiB/s of CPU", limit, mine / limit, bar, "1.0")]


def _cpu(work: Callable[[], None], times: int = 4) -> float:
    """Return the processor's seconds of one run, those of child processes included."""
    before = os.times()
    for _ in range(times):
        work()
    return (sum(os.times()[:4]) - sum(before[:4])) / times


# ------------------------------------------------------------------ handing over


def _serve(port: Any) -> None:
    """Take any mail and keep none of it."""
    from aiosmtpd.smtp import SMTP  # noqa: PLC0415 - only in this process

    class Sink:
        async def handle_DATA(self, *_: Any) -> str:  # noqa: N802 - the library's name
            return "250 OK"

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: SMTP(Sink(), loop=loop), "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


@contextlib.contextmanager
def _mail_server() -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    process = context.Process(target=_serve, args=(port,), daemon=True)
    process.start()
    try:
        yield port.get(timeout=30)
    finally:
        process.terminate()
        process.join()


def _handing_over(quick: bool) -> list[Row]:
    """Hand messages over one by one, each over a connection of its own, as deliveries are."""
    head = f"From: <{SENDER}>\r\nTo: <{RECIPIENT}>\r\n".encode()
    raw = mime.in_base64([("Content-Type", "application/pkcs7-mime")], ids.random_bytes(SIZE))
    raw, count = head + raw, MESSAGES // (10 if quick else 1)
    with _mail_server() as port:
        guard, server = Guard([f"127.0.0.1:{port}"]), Server("127.0.0.1", port, encrypt=False)

        def ours() -> None:
            submission.hand_over(
                raw, sender=SENDER, recipient=RECIPIENT, server=server, guard=guard
            )

        def bare() -> None:
            with smtplib.SMTP("127.0.0.1", port, local_hostname="homeport.invalid") as client:
                client.sendmail(SENDER, [RECIPIENT], raw)

        ours()
        before, took, alone = high_water(), 0.0, 0.0
        for _ in range(count):  # by turns: another load on the machine meets both
            took, alone = took + _seconds(ours), alone + _seconds(bare)
        grown = high_water() - before
    rate, limit = count / took, count / alone
    bar = ">= 0.8 of a bare smtplib loop with the same bytes"
    return [
        Row("mail.hand_over", rate, "messages/s", limit, rate / limit, bar, "0.95"),
        Row("mail.hand_over_memory", grown, "MB more", None, None, "<= 2", "0"),
    ]


def _seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin

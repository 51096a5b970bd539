"""A small catalogue, the keys of a lighthouse, and a folder it publishes in."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
import zlib
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lighthouse import lines, publish, publishing, snapshot
from lighthouse.catalogue import Endpoint, Organization
from phr import clock

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def endpoint(url, token="", **more):
    said = {"vendor": "Epic", "fhir_version": "R4", "authorize": "", "portal": ""}
    return Endpoint(id=lines.derived(url), url=url, token=token, **(said | more))


def organization(number, name, *ends, **more):
    said = {
        "aliases": (), "kind": "prov", "parent": "", "city": "", "state": "", "zip": "",
        "country": "US", "website": "",
    }  # fmt: skip
    return Organization(id=f"{number:032x}", name=name, endpoints=ends, **(said | more))


LAKE = endpoint(
    "https://fhir.lakeside-health.org/api/FHIR/R4/",
    "https://fhir.lakeside-health.org/oauth2/token",
    authorize="https://fhir.lakeside-health.org/oauth2/authorize",
)
HILL = endpoint("https://ehr.hillclinic.com/r4", "https://auth.hillclinic.com/token")
OTHER = endpoint("https://fhir.example-vendor.net/tenant/7/r4?practice=7", vendor="")


def people_type():
    return (
        organization(1, "Lakeside Health System", LAKE, aliases=("LHS Trust",), state="OR"),
        organization(
            2, "Hillside Clinic", replace(HILL, portal="MyHill"), city="Bend", zip="97701"
        ),
        organization(3, "Zoë & Søn Paediatrics", OTHER, LAKE, part_of=f"{1:032x}"),
        organization(4, "National Record of Ruritania", kind="national", country="RU"),
    )


@dataclass
class Lighthouse:
    """A publisher with its keys; `publish` builds and signs the next snapshot."""

    folder: Path
    root: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    name: str = "Test lighthouse"
    since: datetime = NOW - DAY  # from when on the signing key may sign

    @property
    def trust(self):
        return snapshot.Trust((publish.public_of(self.root),))

    def delegation(self, days=90):
        keys = [publish.public_of(self.key)]
        return publish.delegate([self.root], keys, starts=self.since, days=days)

    def publish(self, organizations, *, at=NOW, vendors=None, overrides=None, endpoints=(), **plan):
        content = lines.content_of(organizations, vendors, overrides, endpoints)
        publish.build(content, self.folder, publish.Plan(self.name, at, **plan))
        return publish.sign(self.folder, self.delegation(), [self.key])

    @property
    def last(self):
        return publish.last_manifest(self.folder)

    def fetch(self, name, most):
        return snapshot.reader_of(self.folder)(name, most)

    def replica(self, path, at=NOW):
        """Write the index file of what is published, as `lighthouse replica` does."""
        manifest, content = publishing.verified(self.folder, self.trust, at)
        publishing.write_index(path, manifest, content)


def of_today(folder):
    """Return a publisher whose keys hold now, for readers that look at the clock; and that now."""
    now = clock.now().replace(microsecond=0)
    return Lighthouse(folder, since=now - DAY), now


def png(side=32, colour=(10, 82, 99), height=None, extra=b""):
    """Return a PNG of one colour; `extra` stands as chunks before its end."""
    lines = (height or side) * (b"\0" + bytes(colour) * side)
    head = struct.pack(">IIBBBBB", side, height or side, 8, 2, 0, 0, 0)
    picture = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + picture + extra + png_chunk(b"IEND", b"")


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def files_below(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def free_port():
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def serving(*words, said):
    """Run `lighthouse serve` until it is not needed; yields its address, appends what it wrote."""
    port = free_port()
    command = [sys.executable, "-m", "lighthouse", "serve", *map(str, words), "--port", str(port)]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        base = f"http://127.0.0.1:{port}"
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"{base}/healthz", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield base
    finally:
        os.kill(done.pid, signal.SIGTERM)
        said.append(done.communicate(timeout=20)[0])

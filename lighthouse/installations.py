"""Who may ask for help: installations, known by an Ed25519 key alone, each with a quota.

The one thing the parts that help share is this small file. It holds no endpoint and no name: keys,
the day a key came, how often it asked for what on which day, and for one hour from which networks
(never a whole address) how many keys came.
"""

import base64
import binascii
import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lighthouse.parts import Told

SKEW: Final = 60  # seconds a clock may be off, and the life of a signed question
QUOTAS: Final = {"seal": 100, "assertion": 300, "token": 300, "code": 30}  # a day and installation
NEWCOMERS: Final = 10  # installations an hour from one network
NETWORK: Final = {4: 24, 6: 56}  # bits that one household or office has in common, by IP version
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS installation (
  id TEXT PRIMARY KEY, key BLOB NOT NULL, since TEXT NOT NULL, revoked INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS used (
  installation TEXT, day TEXT, what TEXT, count INTEGER, PRIMARY KEY (installation, day, what)
) STRICT;
CREATE TABLE IF NOT EXISTS nonce (hash BLOB PRIMARY KEY, until INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS newcomer (
  hour TEXT, network TEXT, count INTEGER, PRIMARY KEY (hour, network)
) STRICT;
"""


class Installations:
    """The installations in one SQLite file; several processes may use it at once."""

    def __init__(self, path: Path | str) -> None:
        """Open the file, made when missing; ":memory:" is for one process alone."""
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def register(self, said: Mapping[str, Any], *, network: str, now: datetime) -> str:
        """Take a new installation's key, signed with itself; return its id. Raises Told."""
        raw = _raw(said.get("key"), 32)
        who = thumbprint(_b64(raw))
        with self._lock:
            self._check(said, ["homeport installation", str(said.get("key"))], who, raw, now)
            if self._db.execute("SELECT 1 FROM installation WHERE id = ?", (who,)).fetchone():
                return who
            came = self._db.execute(
                "INSERT INTO newcomer VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1 "
                "RETURNING count",
                (_hour(now), network),
            ).fetchone()[0]
            if came > NEWCOMERS:
                raise Told(429, "slow_down")
            row = (who, raw, f"{now:%Y-%m-%d}")
            self._db.execute("INSERT INTO installation (id, key, since) VALUES (?, ?, ?)", row)
        return who

    def revoke(self, who: str) -> None:
        """End an installation: it is known and gets no help."""
        with self._lock:
            self._db.execute("UPDATE installation SET revoked = 1 WHERE id = ?", (who,))

    def admit(
        self, said: Mapping[str, Any], purpose: str, words: list[str], *, now: datetime
    ) -> str:
        """Check a signed question and count it; return who asked. Raises Told.

        `said` has installation_id, nonce, ts and sig; what is signed are the lines "homeport
        PURPOSE", `words`, the id, the nonce and the time.
        """
        who = str(said.get("installation_id") or "")
        with self._lock:
            query = "SELECT key, revoked FROM installation WHERE id = ?"
            row = self._db.execute(query, (who,)).fetchone()
            if row is None or row[1]:
                raise Told(401, "unknown_installation")
            self._check(said, [f"homeport {purpose}", *words], who, row[0], now)
            self._count(who, purpose, now)
        return who

    def count(self, who: str, what: str, *, now: datetime) -> None:
        """Count a use that has a quota of its own. Raises Told when it is used up."""
        with self._lock:
            self._count(who, what, now)

    def _count(self, who: str, what: str, now: datetime) -> None:
        day = f"{now:%Y-%m-%d}"
        self._db.execute("DELETE FROM used WHERE day < ?", (f"{now - timedelta(days=7):%Y-%m-%d}",))
        raised = self._db.execute(
            "INSERT INTO used VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1 "
            "RETURNING count",
            (who, day, what),
        ).fetchone()[0]
        if raised > QUOTAS[what]:
            raise Told(429, "slow_down")

    def _check(
        self,
        said: Mapping[str, Any],
        words: list[str],
        who: str,
        key: bytes,
        now: datetime,
    ) -> None:
        at, nonce = said.get("ts"), said.get("nonce")
        instant = int(now.timestamp())
        if not isinstance(at, int) or isinstance(at, bool) or abs(instant - at) > SKEW:
            raise Told(401, "stale")
        if not isinstance(nonce, str) or not 16 <= len(nonce) <= 64:
            raise Told(400, "invalid_request")
        lines = [*words, who, nonce, str(at)]
        if any("\n" in line for line in lines):
            raise Told(400, "invalid_request")
        try:
            signature = _raw(said.get("sig"), 64)
            Ed25519PublicKey.from_public_bytes(key).verify(signature, "\n".join(lines).encode())
        except InvalidSignature:
            raise Told(401, "bad_signature") from None
        self._db.execute("DELETE FROM nonce WHERE until < ?", (instant,))
        self._db.execute("DELETE FROM newcomer WHERE hour <> ?", (_hour(now),))
        mark = hashlib.sha256(f"{who} {nonce}".encode()).digest()
        fresh = "INSERT OR IGNORE INTO nonce VALUES (?, ?)"
        if not self._db.execute(fresh, (mark, instant + 2 * SKEW + 1)).rowcount:
            raise Told(401, "stale")


def network_of(address: str) -> str:
    """Return the network that an address is counted under: its /24 (IPv4) or /56 (IPv6)."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return str(ip_network((ip, NETWORK[ip.version]), strict=False))


def _hour(now: datetime) -> str:
    return f"{now:%Y-%m-%dT%H}"


def thumbprint(x: str) -> str:
    """Return the name of an Ed25519 key: its JWK thumbprint (RFC 7638, RFC 8037 §2)."""
    text = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": x}, separators=(",", ":"))
    return _b64(hashlib.sha256(text.encode()).digest())


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _raw(text: object, size: int) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(str(text) + "=" * (-len(str(text)) % 4))
    except (binascii.Error, ValueError):
        raise Told(400, "invalid_request") from None
    if len(raw) != size:
        raise Told(400, "invalid_request")
    return raw

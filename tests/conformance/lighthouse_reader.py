"""A second reader of lighthouses: written from docs/lighthouse-spec.md and nothing else.

The standard library, zstandard and cryptography; nothing of the project is imported.
"""

import base64
import hashlib
import io
import json
import re
import urllib.request
import uuid
from contextlib import suppress
from datetime import datetime, timedelta

import zstandard
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SPACE = uuid.UUID("6f0ce1a4-5b1e-5c0e-9d55-7f0c5a1d7e10")
MIB = 1 << 20


class No(Exception):
    """Refused, with the number of the step of section 4."""

    def __init__(self, step, why):
        super().__init__(f"{step}: {why}")
        self.step = step


def unbase64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def need(step, right, why):
    if not right:
        raise No(step, why)


def signed_payload(signed, role, keys, threshold):
    payload = unbase64(signed["payload"])
    text = f"lighthouse-snapshot/1 {role}\n".encode() + payload
    good = set()
    for one in signed["signatures"]:
        if one["key"] in keys:
            try:
                key = Ed25519PublicKey.from_public_bytes(unbase64(one["key"]))
                key.verify(unbase64(one["signature"]), text)
                good.add(one["key"])
            except (InvalidSignature, ValueError):
                continue
    need(2, len(good) >= threshold, f"{role} not signed")
    return json.loads(payload)


def unpack(data, size, before=None):
    raw = zstandard.ZstdCompressionDict(before, zstandard.DICT_TYPE_RAWCONTENT) if before else None
    reader = zstandard.ZstdDecompressor(dict_data=raw, max_window_size=128 * MIB)
    try:
        content = reader.stream_reader(io.BytesIO(data)).read(size + 1)
    except zstandard.ZstdError as error:
        raise No(7, str(error)) from error
    need(7, len(content) == size, "other size than signed")
    return content


class Reader:
    """Keeps the last good content of one lighthouse. `fetch(name)` returns the bytes of a file."""

    def __init__(self, fetch, roots, threshold=1):
        self.fetch, self.roots, self.threshold = fetch, roots, threshold
        self.manifest, self.content, self.highest, self.keys = None, None, 0, set()
        self.fetched = []

    def update(self, now):
        data = self.fetch("snapshot.json")
        need(1, len(data) <= MIB // 4, "too long")
        try:
            outer = json.loads(data)
            need(1, (outer["format"], outer["version"]) == ("lighthouse-snapshot", 1), "format")
            delegation = signed_payload(
                outer["delegation"], "delegation", self.roots, self.threshold
            )
            manifest = signed_payload(
                outer["manifest"], "manifest", delegation["keys"], delegation.get("threshold", 1)
            )
        except (ValueError, KeyError, TypeError) as error:
            raise No(1, str(error)) from error
        self.check_dates(now, delegation, manifest)
        self.check_sizes(manifest)
        need(5, self.highest <= delegation["serial"] < 1 << 53, "older or impossible delegation")
        need(5, manifest["serial"] < 1 << 53, "impossible serial")
        keys = set(delegation["keys"])
        anew = delegation["serial"] > self.highest and not keys & self.keys
        if self.manifest and not anew:
            ahead = manifest["serial"] - self.manifest["serial"]
            need(5, 0 <= ahead <= 1_000_000, "older snapshot, or far ahead")
            same = manifest["serial"] == self.manifest["serial"]
            need(5, not same or manifest == self.manifest, "two of one serial")
        content = self.get(manifest)
        check_content(content)
        self.manifest, self.content, self.highest = manifest, content, delegation["serial"]
        self.keys = keys

    @staticmethod
    def check_dates(now, delegation, manifest):
        at = {k: datetime.fromisoformat(v) for k, v in (*delegation.items(), *manifest.items())
              if k in {"starts", "created"}}  # fmt: skip
        day = timedelta(days=1)
        need(3, at["starts"] - day <= now, "not yet")
        need(3, now < datetime.fromisoformat(delegation["expires"]), "key expired")
        need(3, at["created"] <= now + day, "of the future")
        need(3, now < datetime.fromisoformat(manifest["expires"]), "expired")

    @staticmethod
    def check_sizes(manifest):
        need(4, manifest["minimum_client"] == 1, "newer format")
        whole, size = manifest["catalogue"], manifest["content"]["size"]
        for one in (whole, *manifest.get("deltas", [])):
            need(4, re.fullmatch(r"[a-z0-9][a-z0-9-]*(\.[a-z0-9]+)+", one["file"]), "file name")
            need(4, 1 <= one["size"] <= 64 * MIB, "size")
        need(4, size <= min(256 * MIB, 64 * whole["size"] + MIB), "ratio")

    def get(self, manifest):
        wanted = manifest["content"]
        if self.content is not None:
            if hashlib.sha256(self.content).hexdigest() == wanted["sha256"]:
                return self.content
            for delta in manifest.get("deltas", []):
                if delta["from"] == self.manifest["serial"]:
                    with suppress(No, OSError, KeyError):  # spec §4.7: it costs the whole file
                        return self.file(delta, wanted, self.content)
        return self.file(manifest["catalogue"], wanted)

    def file(self, named, wanted, before=None):
        data = self.fetch(named["file"])
        self.fetched.append(named["file"])
        need(6, len(data) == named["size"], "incomplete")
        need(6, hashlib.sha256(data).hexdigest() == named["sha256"], "other file")
        content = unpack(data, wanted["size"], before)
        need(7, hashlib.sha256(content).hexdigest() == wanted["sha256"], "other content")
        return content

    def lines(self, kind):
        return [line for line in map(json.loads, self.content.splitlines()) if line["is"] == kind]

    def endpoints(self):
        """Endpoint lines by hexadecimal id."""
        return {endpoint_id(line): line for line in self.lines("endpoint")}


def endpoint_id(line):
    if "id" in line:
        return unbase64(line["id"]).hex()
    return uuid.uuid5(SPACE, "endpoint|" + line["url"].rstrip("/")).hex


def check_content(content):
    urls = set()
    lines = [json.loads(line) for line in content.split(b"\n") if line]
    for line in lines:
        if line["is"] == "endpoint":
            for name in ("url", "authorize", "token", "registration"):
                if name in line:
                    host = re.fullmatch(
                        r"https://([^/?#\s\\@]+)([/?#][^\s\\]*)?", line[name], re.IGNORECASE
                    )
                    need(8, host and re.search(r"\.[a-z]", host[1], re.IGNORECASE), "address")
            need(8, line["url"] not in urls, "twice")
            urls.add(line["url"])
    for line in lines:
        if line["is"] == "organization":
            for door in line.get("endpoints", []):
                need(
                    8, (door if isinstance(door, str) else door["url"]) in urls, "unknown endpoint"
                )


class Service:
    """The interface of section 5 at a base address (no slash at its end)."""

    def __init__(self, base):
        self.base = base

    def _get(self, path, body=None, **headers):
        data = json.dumps(body).encode() if body is not None else None
        kind = {"Content-Type": "application/json"} if data else {}
        request = urllib.request.Request(self.base + path, data, {**kind, **headers})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()

    def search(self, typed, limit=5):
        return json.loads(self._get("/v1/search", {"q": typed, "limit": limit}))["hits"]

    def organization(self, identity):
        return json.loads(self._get(f"/v1/organizations/{identity}"))

    def endpoint(self, identity):
        return json.loads(self._get(f"/v1/endpoints/{identity}"))

    def file(self, name):
        return self._get(f"/snapshots/{name}")

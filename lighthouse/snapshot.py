"""Takes signed snapshots in: verifies them, refuses what is wrong, keeps the last good one.

The reader's side of docs/lighthouse-spec.md. No network and no clock: the caller gives a function
that fetches a file, and the time. The publisher's side is `lighthouse.publish`.
"""

import base64
import binascii
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lighthouse import lines
from lighthouse import logos as pictures
from lighthouse.catalogue import Endpoint, Organization
from lighthouse.index import Index, NoIndex, Origin, open_index
from lighthouse.index import write as write_index
from lighthouse.lines import Content
from lighthouse.logos import file_name
from lighthouse.merge import name_key
from lighthouse.search import Hit, Search
from lighthouse.sites import same_site, site_of
from lighthouse.vendors import profile

FORMAT = "lighthouse-snapshot"
VERSION = 1
MERGING = 2  # of the rules of `merge`: an index made by others is made anew
ENVELOPE = "snapshot.json"  # the one file with a fixed name
MOST_ENVELOPE = 256 * 1024
MOST_PACKED = 64 * 1024 * 1024
MOST_CONTENT = 256 * 1024 * 1024
MOST_RATIO = 64  # text of this kind packs 9 : 1
WINDOW = 1 << 27  # the largest window a reader grants (RFC 8878 §3.1.1.1.2)
SKEW = timedelta(days=1)  # how far a clock may be wrong
MOST_SERIAL = (1 << 53) - 1  # what every JSON reader keeps exactly (RFC 8259 §6)
LEAP = 1_000_000  # how far a serial may be ahead of the last one

Fetch = Callable[[str, int], bytes]  # (file name, most bytes) -> its bytes

_FORWARDS, _LOGOS = "forwards.json", "logos"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_FILE = re.compile(r"[a-z0-9][a-z0-9-]*(?:\.[a-z0-9]+)+")


class Refused(Exception):
    """A snapshot that is not taken; the text is a sentence for people, `reason` one word.

    format, client (a newer reader is needed), signature, expired, rollback, size, hash, content.
    """

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose word counts: the root keys of one lighthouse (base64url), and how many must sign."""

    roots: tuple[str, ...]
    threshold: int = 1


class File(msgspec.Struct, frozen=True):
    """One file of a snapshot, as its manifest names it."""

    file: str
    size: int
    sha256: str


class Delta(File, frozen=True, rename={"since": "from"}):
    """A file that makes the content out of that of an earlier serial."""

    since: int


class Pack(File, frozen=True):
    """The file of the reviewed logos; `unpacked` is its size when it is unpacked."""

    unpacked: int


class Sum(msgspec.Struct, frozen=True):
    """Size and hash of the unpacked content."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """What is signed for each snapshot."""

    lighthouse: str
    serial: int
    created: datetime
    expires: datetime
    minimum_client: int
    catalogue: File
    content: Sum
    counts: dict[str, int]
    deltas: list[Delta] = []
    services: dict[str, str] = {}
    logos: Pack | msgspec.UnsetType = msgspec.UNSET


class Delegation(msgspec.Struct, frozen=True):
    """What the root keys sign: which keys may sign manifests, and until when."""

    serial: int
    starts: datetime
    expires: datetime
    keys: list[str]
    threshold: int = 1


class _Signature(msgspec.Struct, frozen=True):
    key: str
    signature: str


class _Signed(msgspec.Struct, frozen=True):
    payload: str
    signatures: list[_Signature]


class _Envelope(msgspec.Struct, frozen=True):
    format: str
    version: int
    delegation: _Signed
    manifest: _Signed


@dataclass(frozen=True, slots=True)
class Checked:
    """An envelope whose signatures and dates are right."""

    manifest: Manifest
    delegation: Delegation


# --------------------------------------------------------------------------- signatures and dates


def signed_text(role: str, payload: bytes) -> bytes:
    """Return what is signed: a role cannot be played with the signature of another."""
    return f"{FORMAT}/{VERSION} {role}\n".encode() + payload


def public_bytes(text: str) -> bytes:
    """Return the 32 bytes of an Ed25519 public key or 64 of a signature, from base64url."""
    padded = text.translate(str.maketrans("-_", "+/")) + "=" * (-len(text) % 4)
    return binascii.a2b_base64(padded, strict_mode=True)


def check(envelope: bytes, trust: Trust, *, now: datetime) -> Checked:
    """Verify a `snapshot.json`: format, both levels of signatures, dates. Raises Refused."""
    checked = authenticate(envelope, trust)
    manifest, delegation = checked.manifest, checked.delegation
    if not delegation.starts - SKEW <= now < delegation.expires:
        raise Refused("expired", "The lighthouse's signing key is not, or no longer, valid.")
    if manifest.created > now + SKEW:
        raise Refused("format", "The snapshot says that it was made in the future.")
    if now >= manifest.expires:
        raise Refused("expired", f"The snapshot was good until {manifest.expires:%Y-%m-%d}.")
    return checked


def authenticate(envelope: bytes, trust: Trust) -> Checked:
    """Verify format and signatures of a `snapshot.json`, whatever its dates. Raises Refused."""
    if len(envelope) > MOST_ENVELOPE:
        raise Refused("size", "The snapshot's description is too large.")
    found = _decode(envelope, _Envelope)
    if found.format != FORMAT:
        raise Refused("format", "This is no snapshot of a lighthouse.")
    if found.version != VERSION:
        raise Refused("client", "This snapshot needs a newer Homeport.")
    payload = _verified(found.delegation, "delegation", trust.roots, trust.threshold)
    delegation = _decode(payload, Delegation)
    payload = _verified(
        found.manifest, "manifest", delegation.keys, min(delegation.threshold, len(delegation.keys))
    )
    manifest = _decode(payload, Manifest)
    if manifest.minimum_client > VERSION:
        raise Refused("client", "This snapshot needs a newer Homeport.")
    _check_sizes(manifest)
    if not 0 <= delegation.serial <= MOST_SERIAL:
        raise Refused("size", "The number of the lighthouse's signing key is impossible.")
    return Checked(manifest, delegation)


def _decode(data: bytes, kind: type[Any]) -> Any:
    try:
        found = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Refused("format", "The snapshot's description cannot be read.") from error
    for name in ("created", "starts", "expires"):
        at = getattr(found, name, None)
        if at is not None and at.tzinfo is None:
            raise Refused("format", "A date of the snapshot has no time zone.")
    return found


def _verified(signed: _Signed, role: str, keys: Iterable[str], threshold: int) -> bytes:
    """Return the payload that enough different keys have signed."""
    try:
        payload = public_bytes(signed.payload)
        text = signed_text(role, payload)
        allowed = {public_bytes(key) for key in keys}
        good = set()
        for one in signed.signatures[:64]:
            key = public_bytes(one.key)
            if key in allowed and _is_signed(key, public_bytes(one.signature), text):
                good.add(key)
    except ValueError as error:
        raise Refused("format", "A key or signature of the snapshot cannot be read.") from error
    if len(good) < max(1, threshold):
        raise Refused("signature", f"The snapshot's {role} is not signed by a key we trust.")
    return payload


def _is_signed(key: bytes, signature: bytes, text: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, text)
    except InvalidSignature:
        return False
    return True


def _check_sizes(manifest: Manifest) -> None:
    packed = manifest.catalogue.size
    files = [manifest.catalogue, *manifest.deltas]
    if manifest.logos is not msgspec.UNSET:
        files.append(manifest.logos)
        if not 0 <= manifest.logos.unpacked <= pictures.MOST:
            raise Refused("size", "The snapshot has more logos than a reader takes.")
    if any(not _FILE.fullmatch(one.file) or one.file == ENVELOPE for one in files):
        raise Refused("format", "A file of the snapshot has an impossible name.")
    small = all(0 < one.size <= MOST_PACKED for one in files)
    honest = 0 <= manifest.content.size <= min(MOST_CONTENT, MOST_RATIO * packed + (1 << 20))
    if not small or not honest or not 1 <= manifest.serial <= MOST_SERIAL:
        raise Refused("size", "The snapshot is larger than a catalogue can be.")


# --------------------------------------------------------------------------- unpacking


def unpack(packed: bytes, manifest: Manifest, *, before: bytes | None = None) -> bytes:
    """Return the content of a packed file; `before` is the content a delta starts from.

    Never unpacks more than the manifest says. Raises Refused.
    """
    given = (
        zstandard.ZstdCompressionDict(before, zstandard.DICT_TYPE_RAWCONTENT) if before else None
    )
    content = _inflated(packed, manifest.content.size, given)
    if _sha256(content) != manifest.content.sha256:
        raise Refused("hash", "The unpacked snapshot is not what was signed.")
    return content


def _inflated(
    packed: bytes, most: int, given: zstandard.ZstdCompressionDict | None = None
) -> bytes:
    """Unpack one frame of exactly the size that was signed, and never more."""
    try:
        decompressor = zstandard.ZstdDecompressor(dict_data=given, max_window_size=WINDOW)
        with decompressor.stream_reader(io.BytesIO(packed), read_across_frames=False) as reader:
            content = reader.read(most + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise Refused("hash", "The snapshot cannot be unpacked.") from error
    if len(content) > most:
        raise Refused("size", "The snapshot unpacks to more than it says.")
    if len(content) != most:
        raise Refused("hash", "The unpacked snapshot is not what was signed.")
    return content


def logos_of(packed: bytes, wanted: Pack) -> dict[str, bytes]:
    """Return the logos of a pack (PNG by organisation id). Raises Refused."""
    if _sha256(packed) != wanted.sha256:
        raise Refused("hash", f"{wanted.file} is not the file that was signed.")
    try:
        return pictures.read(_inflated(packed, wanted.unpacked))
    except pictures.NotALogo as error:
        raise Refused("content", str(error)) from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetched(fetch: Fetch, wanted: File) -> bytes:
    """Fetch a file of a manifest, by size and hash the one that was signed. Raises Refused."""
    packed = fetch(wanted.file, wanted.size)
    if len(packed) != wanted.size:
        raise Refused("size", f"{wanted.file} is incomplete or too long.")
    if _sha256(packed) != wanted.sha256:
        raise Refused("hash", f"{wanted.file} is not the file that was signed.")
    return packed


def fetch_content(manifest: Manifest, fetch: Fetch, held: tuple[int, bytes] | None) -> bytes:
    """Fetch the content: nothing where it is held, else a delta where there is one, else whole.

    `held` is serial and content of what is kept. A delta that is wrong, or not there, as in a file
    carried by hand, costs a whole file, no more.
    """
    if held is not None:
        serial, before = held
        if _sha256(before) == manifest.content.sha256:
            return before
        for delta in manifest.deltas:
            if delta.since == serial:
                with suppress(Exception):  # it only saves: whatever keeps it from coming
                    return unpack(fetched(fetch, delta), manifest, before=before)
                break
    return unpack(fetched(fetch, manifest.catalogue), manifest)


def reader_of(path: Path) -> Fetch:
    """Return a fetch function over a folder or one .zip file. Raises FileNotFoundError."""

    def from_folder(name: str, most: int) -> bytes:
        with (path / name).open("rb") as file:
            return file.read(most + 1)

    def from_zip(name: str, most: int) -> bytes:
        try:
            with zipfile.ZipFile(path) as packed, packed.open(name) as file:
                return file.read(most + 1)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
            raise Refused("format", "The file is no packed snapshot.") from error
        except KeyError as error:
            raise FileNotFoundError(name) from error

    if not path.exists():
        raise FileNotFoundError(path)
    return from_folder if path.is_dir() else from_zip


# --------------------------------------------------------------------------- addresses that move


@dataclass(frozen=True, slots=True)
class Moved:
    """A sign-in address that left its registrable domain: `old` holds until a person confirms."""

    endpoint: str
    url: str
    field: str
    old: str
    new: str


Pins = dict[str, dict[str, str]]  # endpoint id -> field -> the address that holds


def pins_after(before: Content, pins: Pins, after: Content) -> Pins:
    """Return which old addresses hold against a new snapshot.

    An address that disappears is remembered as well: away and back is a move, too. A first address
    of an endpoint that was there without one is a move where it leads to a stranger.
    """
    found: Pins = {}
    usual = _sign_in_sites(before)
    for identity in before.endpoints.keys() | pins.keys():
        old, new = before.endpoints.get(identity), after.endpoints.get(identity)
        pinned = pins.get(identity, {})
        for name in lines.ADDRESSES:
            held = pinned.get(name, getattr(old, name) if old else "")
            said = getattr(new, name) if new else ""
            if said == held:
                continue
            if held:
                stays = not (said and same_site(held, said))
            else:
                known = name in pinned or old is not None
                stays = known and new is not None and site_of(said) not in usual(new.url)
            if stays:
                found.setdefault(identity, {})[name] = held
    return found


def _sign_in_sites(content: Content) -> Callable[[str], set[str]]:
    """Return a function that says at which sites those who share an address's site sign in.

    Its own site is one of them: a vendor's customers mostly sign in at one other address of it.
    """
    found: dict[str, set[str]] = {}

    def usual(url: str) -> set[str]:
        if not found:
            for end in content.endpoints.values():
                sites = {site_of(said) for name in lines.ADDRESSES if (said := getattr(end, name))}
                found.setdefault(site_of(end.url), set()).update(sites)
        return found.get(site_of(url), set()) | {site_of(url)}

    return usual


def moved(content: Content, pins: Pins) -> tuple[Moved, ...]:
    """Return the moves that wait for a person."""
    return tuple(
        Moved(identity, end.url, name, held, getattr(end, name))
        for identity in sorted(pins)
        if (end := content.endpoints.get(identity))
        for name, held in sorted(pins[identity].items())
    )


def in_force(content: Content, pins: Pins) -> Content:
    """Return the content with the old address wherever a move waits for a person."""
    if not pins:
        return content
    ends = dict(content.endpoints)
    for identity, held in pins.items():
        if identity in ends:
            ends[identity] = replace(ends[identity], **held)
    organizations = tuple(
        _with_doors(one, ends) if any(end.id in pins for end in one.endpoints) else one
        for one in content.organizations
    )
    texts = {key: text for key, text in content.endpoint_texts.items() if key not in pins}
    return replace(content, organizations=organizations, endpoints=ends, endpoint_texts=texts)


def _with_doors(one: Organization, ends: Mapping[str, Any]) -> Organization:
    return replace(
        one, endpoints=tuple(lines.with_door(ends[end.id], end) for end in one.endpoints)
    )


def forwards_of(content: Content) -> dict[str, str]:
    """Return the address that took the place of another, by the old one without a slash behind.

    A chain is followed to its end; one that leads in a circle leads nowhere.
    """
    found: dict[str, str] = {}
    for end in content.endpoints.values():
        seen, last = {end.id}, end
        while last.forward and last.forward in content.endpoints and last.forward not in seen:
            last = content.endpoints[last.forward]
            seen.add(last.id)
        if last is not end and last.forward not in seen:
            found[end.url.rstrip("/")] = last.url
    return found


# --------------------------------------------------------------------------- several lighthouses


def merge(ordered: Sequence[tuple[Origin, Content]]) -> tuple[Content, dict[str, Origin]]:
    """Merge contents in the order of preference; also return where each endpoint came from.

    The first that knows an endpoint says all about it. An organisation of a later one joins that of
    an earlier one with the same id, or with the same name and place at a shared endpoint.
    """
    ends: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    overrides: dict[str, Mapping[str, Any]] = {}
    first = ordered[0][1] if ordered else Content((), {})
    later = {end for _, content in ordered[1:] for end in content.endpoints}
    for origin, content in ordered:
        new = content.endpoints.keys() - ends.keys()
        ends.update((key, content.endpoints[key]) for key in new)
        origins.update(dict.fromkeys(new, origin))
        overrides.update((key, content.overrides[key]) for key in content.overrides.keys() & new)
    kept = {one.id: one for one in first.organizations}
    at: dict[tuple[str, str], dict[str, str]] = {}
    for one in first.organizations if later else ():
        for key in _keys(one, later):
            at.setdefault(key, {}).setdefault(one.state, one.id)
    joined: set[str] = set()
    for _, content in ordered[1:]:
        for one in content.organizations:
            keys = _keys(one, ends)
            known = one.id if one.id in kept else _known(one, keys, at) or one.id
            kept[known] = _joined(kept.get(known), one, ends)
            joined.add(known)
            for key in keys:
                at.setdefault(key, {}).setdefault(one.state, known)
    texts = {key: text for key, text in first.organization_texts.items() if key not in joined}
    whole = Content(tuple(kept.values()), ends, {}, overrides, texts, first.endpoint_texts)
    return whole, origins


def _keys(one: Organization, ends: Container[str]) -> list[tuple[str, str]]:
    """Return by what an organisation of another lighthouse is known again, beside its state."""
    return [(name_key(one.name), end.id) for end in one.endpoints if end.id in ends]


def _known(
    one: Organization,
    keys: Sequence[tuple[str, str]],
    at: Mapping[tuple[str, str], Mapping[str, str]],
) -> str | None:
    """Return the organisation that this one is: in the same state, or where only one says a state.

    A state that is not said contradicts none; but where several stand, it does not choose.
    """
    for key in keys:
        states = at.get(key, {})
        if one.state in states:
            return states[one.state]
        rest = set(states.values()) if not one.state else {states[""]} if "" in states else set()
        if len(rest) == 1:
            return rest.pop()
    return None


def _joined(
    first: Organization | None, other: Organization, ends: Mapping[str, Any]
) -> Organization:
    """Add the doors of the other; its place where the first says none."""
    if first is None:
        return _with_doors(other, ends)
    have = {end.id for end in first.endpoints}
    more = [lines.with_door(ends[end.id], end) for end in other.endpoints if end.id not in have]
    if not (first.city or first.state):
        zip_ = first.zip or other.zip
        first = replace(first, city=other.city, state=other.state, zip=zip_)
    return replace(first, endpoints=(*first.endpoints, *more))


# --------------------------------------------------------------------------- the reader's folder


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one lighthouse; `expired`: nothing newer came in time (a freeze?)."""

    name: str
    lighthouse: str
    serial: int
    created: datetime
    expires: datetime
    expired: bool
    organizations: int
    endpoints: int
    held: tuple[Moved, ...] = ()
    services: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The content of one lighthouse as it is in force, with its manifest."""

    manifest: Manifest
    content: Content


class _State(msgspec.Struct, frozen=True):
    """The one file whose replacement makes a snapshot current."""

    envelope: bytes
    delegation: int  # the highest serial of a delegation seen
    pins: Pins = {}
    held: list[dict[str, str]] = []

    @property
    def manifest(self) -> Manifest:
        """The manifest, whose signatures were verified when it was taken."""
        signed = msgspec.json.decode(self.envelope, type=_Envelope).manifest
        found: Manifest = _decode(public_bytes(signed.payload), Manifest)
        return found

    @property
    def keys(self) -> list[str]:
        """The keys that might sign when it was taken."""
        signed = msgspec.json.decode(self.envelope, type=_Envelope).delegation
        found: Delegation = _decode(public_bytes(signed.payload), Delegation)
        return found.keys


@dataclass(frozen=True, slots=True)
class Shelf:
    """The folder in which a reader keeps the last good snapshot of each of its lighthouses."""

    folder: Path
    _taken: dict[str, tuple[str, Content]] = field(default_factory=dict, repr=False, compare=False)

    def take(self, name: str, fetch: Fetch, trust: Trust, *, now: datetime) -> Kept:
        """Fetch, verify and keep the snapshot of a lighthouse. Raises Refused and keeps the old.

        What `fetch` raises passes through. The same snapshot again fetches one small file.
        """
        state = self._state(name)
        envelope = fetch(ENVELOPE, MOST_ENVELOPE)
        checked = check(envelope, trust, now=now)
        manifest = checked.manifest
        if state is not None:
            _refuse_rollback(state, checked)
        before = self._content(name, state)
        held = (state.manifest.serial, before) if state is not None and before is not None else None
        raw = fetch_content(manifest, fetch, held)
        content = read_content(raw)
        pins: Pins = state.pins if state is not None else {}
        if state is not None and before is not None and before != raw:
            pins = pins_after(read_content(before), pins, content)
        waiting = [asdict(one) for one in moved(content, pins)]
        self._keep(name, manifest, raw, _State(envelope, checked.delegation.serial, pins, waiting))
        _replace(self._place(name) / _FORWARDS, msgspec.json.encode(forwards_of(content)))
        self._taken[name] = (
            manifest.content.sha256,
            content,
        )  # for the index that is mostly written next
        return self._kept(name, now)

    def kept(self, *, now: datetime) -> list[Kept]:
        """Return what is kept, by name."""
        if not self.folder.is_dir():
            return []
        names = sorted(one.parent.name for one in self.folder.glob("*/state.json"))
        return [self._kept(name, now) for name in names]

    def forwards(self, name: str) -> dict[str, str]:
        """Return which addresses were taken over by another one, as one lighthouse says."""
        try:
            kept = (self._place(name) / _FORWARDS).read_bytes()
            return msgspec.json.decode(kept, type=dict[str, str])
        except (OSError, msgspec.DecodeError):
            return {}

    def take_logos(self, name: str, fetch: Fetch) -> None:
        """Fetch the logos of the snapshot that is kept, where they are others than are here.

        They are no part of what must be there: without them letters are shown. Raises KeyError,
        Refused; what `fetch` raises passes through.
        """
        state, file = self._state(name), self._place(name) / _LOGOS
        if state is None:
            raise KeyError(name)
        wanted = state.manifest.logos
        if wanted is msgspec.UNSET:
            file.unlink(missing_ok=True)
        elif not file.is_file() or _sha256(file.read_bytes()) != wanted.sha256:
            packed = fetched(fetch, wanted)
            logos_of(packed, wanted)  # what cannot be shown is not kept
            _replace(file, packed)

    def logos(self, name: str) -> dict[str, bytes]:
        """Return the logos that are kept and signed (PNG by organisation id); none where not."""
        state, file = self._state(name), self._place(name) / _LOGOS
        wanted = state.manifest.logos if state is not None else msgspec.UNSET
        if wanted is msgspec.UNSET:
            return {}
        try:
            return logos_of(file.read_bytes(), wanted)
        except (OSError, Refused):
            return {}

    def load(self, name: str) -> Loaded:
        """Return the content of one lighthouse as it is in force. Raises KeyError, Refused."""
        state = self._state(name)
        if state is None:
            raise KeyError(name)
        known, content = self._taken.get(name, ("", None))
        if content is None or known != state.manifest.content.sha256:
            raw = self._content(name, state)
            if raw is None:
                raise Refused("hash", f"The kept snapshot of {name} is damaged. Fetch it again.")
            content = read_content(raw)
        return Loaded(state.manifest, in_force(content, state.pins))

    def confirm(self, name: str, endpoint: str) -> None:
        """A person agreed that an endpoint's sign-in addresses moved. Raises KeyError."""
        state = self._state(name)
        if state is None:
            raise KeyError(name)
        pins = {one: held for one, held in state.pins.items() if one != endpoint}
        waiting = [one for one in state.held if one["endpoint"] != endpoint]
        changed = msgspec.structs.replace(state, pins=pins, held=waiting)
        _replace(self._place(name) / "state.json", msgspec.json.encode(changed))

    def forget(self, name: str) -> None:
        """Remove what is kept of a lighthouse, with the memory of its serials."""
        self._taken.pop(name, None)
        place = self._place(name)
        if place.is_dir():
            for file in sorted(place.iterdir(), key=lambda one: one.name != "state.json"):
                file.unlink()
            place.rmdir()

    def index(self, order: Sequence[str], own: Iterable[Organization] = ()) -> Path:
        """Write the search index of what is kept, preferred first; `own` comes last. Atomic."""
        ordered: list[tuple[Origin, Content]] = []
        for name in order:
            found = self.load(name)
            at = found.manifest
            origin = Origin(name, at.serial, at.created.isoformat(), at.expires.isoformat())
            ordered.append((origin, found.content))
        self._taken.clear()
        ordered.append((Origin("own"), lines.content_of(own)))
        vendors = {origin.name: content.vendors for origin, content in ordered}
        content, origins = merge([pair for pair in ordered if pair[1].organizations] or ordered)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "index.db"
        write_index(path, content, [origin for origin, _ in ordered], vendors, origins)
        return path

    # ----------------------------------------------------------------- files

    def _place(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError("a lighthouse is named with small letters, digits and hyphens")
        return self.folder / name

    def _state(self, name: str) -> _State | None:
        file = self._place(name) / "state.json"
        try:
            return msgspec.json.decode(file.read_bytes(), type=_State)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            sentence = f"The memory of {name} is damaged. Forget this lighthouse and add it again."
            raise Refused("hash", sentence) from error

    def _content(self, name: str, state: _State | None) -> bytes | None:
        """Return the kept content if it is still what was signed."""
        if state is None:
            return None
        manifest = state.manifest
        try:
            packed = (self._place(name) / f"{manifest.content.sha256}.zst").read_bytes()
            return unpack(packed, manifest)
        except (OSError, Refused):
            return None

    def _keep(self, name: str, manifest: Manifest, raw: bytes, state: _State) -> None:
        place = self._place(name)
        place.mkdir(parents=True, exist_ok=True)
        file = place / f"{manifest.content.sha256}.zst"
        _replace(file, zstandard.ZstdCompressor(level=3).compress(raw))
        _replace(place / "state.json", msgspec.json.encode(state))
        for old in place.glob("*.zst"):
            if old != file:
                old.unlink()

    def _kept(self, name: str, now: datetime) -> Kept:
        state = self._state(name)
        if state is None:
            raise KeyError(name)
        manifest = state.manifest
        return Kept(
            name,
            manifest.lighthouse,
            manifest.serial,
            manifest.created,
            manifest.expires,
            now >= manifest.expires,
            manifest.counts.get("organizations", 0),
            manifest.counts.get("endpoints", 0),
            tuple(Moved(**one) for one in state.held),
            manifest.services,
        )


def _refuse_rollback(state: _State, checked: Checked) -> None:
    """Refuse what is older than what was seen, or too far ahead of it to be the next one.

    Where the root took the signing keys away and named others, numbers begin anew: whoever stole
    a key must not lock readers out by a high one.
    """
    kept, new = state.manifest, checked.manifest
    if checked.delegation.serial < state.delegation:
        raise Refused("rollback", "The lighthouse has since changed its signing key.")
    if checked.delegation.serial > state.delegation and not (
        set(checked.delegation.keys) & set(state.keys)
    ):
        return
    if new.serial < kept.serial:
        sentence = f"Snapshot {new.serial} is older than the one we have ({kept.serial})."
        raise Refused("rollback", sentence)
    if new.serial > kept.serial + LEAP:
        raise Refused("rollback", f"Snapshot {new.serial} is no next one after {kept.serial}.")
    if new.serial == kept.serial and new != kept:
        raise Refused("rollback", f"There are two different snapshots {new.serial}.")


def read_content(raw: bytes) -> Content:
    """Return the content of unpacked lines. Raises Refused."""
    if not raw.endswith(b"\n"):
        sentence = "The snapshot is empty." if not raw else "The snapshot ends within a line."
        raise Refused("content", sentence)
    try:
        return lines.read(raw)
    except lines.Unreadable as error:
        raise Refused("content", str(error)) from error


def _replace(path: Path, data: bytes) -> None:
    """Put a file in place whole or not at all, also through a power cut."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def to_text(data: bytes) -> str:
    """Return bytes as base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


__all__ = [
    "Checked",
    "Content",
    "Endpoint",
    "Hit",
    "Index",
    "Kept",
    "Loaded",
    "Manifest",
    "Moved",
    "NoIndex",
    "Organization",
    "Origin",
    "Refused",
    "Search",
    "Shelf",
    "Trust",
    "check",
    "file_name",
    "open_index",
    "profile",
    "reader_of",
    "same_site",
    "site_of",
]

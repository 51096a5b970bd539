"""What the store needs to know of one received resource, found in a single pass over its elements.

Resources of one hospital repeat most of their elements byte for byte (codes, categories, the
patient's reference). So each element is judged and read once and remembered by its bytes; only
what is new costs a parse. Nothing is rebuilt: offsets point into the received bytes.
"""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from itertools import accumulate
from typing import Any, Final, NamedTuple

import msgspec

from phr.errors import InvalidInput
from phr.fhir import document, labels, reading, references
from phr.fhir.check import Note
from phr.fhir.kinds import KINDS, PATIENT_ELEMENTS, Kind
from phr.fhir.reading import Coding, at, category_bits, codings, moment_of, preferred, text

MAX_ID: Final = 256  # R4 allows 64; Epic sends up to 130
MAX_WORDS: Final = 20_000  # characters of search text taken from one resource
_REMEMBERED_BYTES: Final = 1024
_REMEMBERED: Final = 2048  # per type and element name
_NARRATIVE_QUOTES: Final = 8
# Two elements so frequent and so different each time that their shape is checked in one match:
# what fits has each name once, no escapes, no depth and no absurd number.
_REFERENCES = re.compile(rb'\[?\{"reference":"[^"\\]++"\}(?:,\{"reference":"[^"\\]++"\})*+\]?')
_QUANTITY = re.compile(
    rb'\{"value":(-?[0-9]{1,15}(?:\.[0-9]{1,15})?)(?:,"unit":"[^"\\]*+")?'
    rb'(?:,"system":"http://unitsofmeasure.org")?(?:,"code":"[^"\\]*+")?\}'
)
_QUOTE: Final = ord('"')
_BRACE: Final = ord("{")
_MOST_DIGITS: Final = 10**document.MAX_NUMBER

_WORDS: Final = frozenset(
    """display text name title description conclusion family given prefix suffix comment note
    valueString valueMarkdown line city patientInstruction summary label answer reasonString
    clinicalInterpretation disposition presentation lotNumber prescriptionText instruction
    additionalInstruction friendlyName deviceName alias""".split()  # noqa: SIM905  a word list
)


class Link(NamedTuple):
    """A file that a resource names: by address, or inline (then `data` is set, `url` is "#n")."""

    url: str
    media_type: str
    data: bytes | None = None


class Piece:
    """What one element tells. `has` says which of the rest were set, so that merging is quick."""

    has = 0
    words: tuple[str, ...] = ()
    places: tuple[tuple[int, int], ...] = ()  # of references, from the element's first byte
    labels = 0
    flags = 0
    categories = 0
    rank = 99  # of the date path it is on; smaller is better
    start: int | None = None
    end: int | None = None
    code_rank = 99
    codings: tuple[Coding, ...] = ()
    value: float | None = None
    patients: tuple[str, ...] = ()  # ids of the patients whose record this says it is
    links: tuple[Link, ...] = ()


_WORDY, _PLACED, _BITTEN, _TIMED, _CODED, _MORE = (1 << bit for bit in range(6))
_TELLS: Final = {  # which bit of `has` stands for an attribute
    "words": _WORDY,
    "places": _PLACED,
    "labels": _BITTEN,
    "flags": _BITTEN,
    "categories": _BITTEN,
    "rank": _TIMED,
    "code_rank": _CODED,
    "value": _MORE,
    "patients": _MORE,
    "links": _MORE,
}
PLAIN: Final = Piece()
_tuple: Final = tuple.__new__  # makes a named tuple in a third of the time of its constructor


class Taken(NamedTuple):
    """What the store needs to know of one resource.

    `words` are distinct pieces of text for search, `codings` the concept it is about (preferred
    coding first), `value` its number where it has one, `splices` the blob of `references.pack`.
    """

    kind: Kind
    remote_id: str
    splices: bytes
    words: tuple[str, ...]
    labels: int
    flags: int
    categories: int
    time: int | None
    time_end: int | None
    codings: tuple[Coding, ...]
    value: float | None
    patients: tuple[str, ...]
    links: tuple[Link, ...]


class Peek(msgspec.Struct):
    """The two elements that say which resource this is."""

    resourceType: Any = None  # noqa: N815  FHIR's own name
    id: Any = None


_peek: Final = msgspec.json.Decoder(Peek).decode
_BY_NAME: Final = {
    name.encode(): kind for name, kind in KINDS.items() if name != "OperationOutcome"
}
_HEAD = re.compile(rb'\{"resourceType":"([A-Za-z]{1,64})","id":"([A-Za-z0-9._-]{1,256})"[,}]')


def peek(body: bytes) -> tuple[Any, Any]:
    """Return (type, id) without judging the rest; raise InvalidInput if it is no JSON object."""
    try:
        found = _peek(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as problem:
        raise InvalidInput("This is not a well-formed JSON object.") from problem
    return found.resourceType, found.id


def glance(body: bytes) -> tuple[Kind, bytes] | None:
    """Return kind and id from the first bytes, where most servers write them; else None.

    A name that stands twice is found when the rest is judged.
    """
    match = _HEAD.match(body)
    if match is None:
        return None
    kind = _BY_NAME.get(match[1])
    return None if kind is None else (kind, match[2])


def named(type_: Any, id_: Any, body: bytes, url: str | None) -> tuple[Kind, str]:
    """Return the kind and remote id of a resource, or raise InvalidInput.

    Without an id of its own it takes the fullUrl's, else the hash of its bytes, so that the same
    file gives the same records again.
    """
    kind = KINDS.get(type_) if isinstance(type_, str) else None
    if kind is None:
        raise InvalidInput("Its resourceType is missing or not a FHIR resource type.")
    if type_ == "OperationOutcome":
        raise InvalidInput("This is a message of the server, not a record.")
    if id_ is None:
        return kind, _id_from(url) or f"sha256-{sha256(body).hexdigest()[:32]}"
    if not isinstance(id_, str) or not id_ or len(id_) > MAX_ID:
        raise InvalidInput("Its id is empty, too long, or not text.")
    if not id_.isprintable():
        raise InvalidInput("Its id holds control characters.")
    return kind, id_


def _id_from(url: str | None) -> str | None:
    pointed = references.target(url) if url else None
    return pointed.id if pointed else None


class _Ids(dict[bytes, Piece]):
    """The memory of `id` elements: they tell nothing but themselves."""

    def get(self, _raw: bytes, _default: Any = None) -> Piece:
        """Return the piece that tells nothing."""
        return PLAIN


class _Narratives(dict[bytes, Piece]):
    """The memory of narratives: nothing in them that is not coded too, so nothing is kept."""

    def get(self, raw: bytes, _default: Any = None) -> Any:
        """Return the piece that tells nothing, if `raw` is a narrative and nothing else."""
        return PLAIN if _is_narrative(raw) else None


class _Metas(dict[bytes, Piece]):
    """The memory of meta, which differs from others of its kind in the time of its update only.

    It is remembered without that time. The time holds neither quote nor backslash, so what was
    judged with another time in this place is judged with this one.
    """

    def get(self, raw: bytes, _default: Any = None) -> Any:
        """Return what is known of `raw`, whatever its time."""
        return dict.get(self, _timeless(raw))


def _timeless(raw: bytes) -> bytes:
    """Return a meta element without the value of its `lastUpdated`."""
    start = raw.find(b'"lastUpdated":"') + 15
    end = raw.find(b'"', start)
    if start < 15 or b"\\" in raw[start:end]:
        return raw
    return raw[:start] + raw[end:]


class _Shape(NamedTuple):
    """What is the same for all resources of a type that have the same elements in this order."""

    memories: list[dict[bytes, Piece]]
    names: list[str]
    offsets: list[int]  # of each element's value, as if all values before it were empty
    frame: int  # bytes of everything but the values, in compact JSON
    id_at: int  # place of `id` among the elements; -1 if there is none


class _Plan:
    """How the elements of one type are read, and what was read already."""

    __slots__ = ("busy", "codes", "dates", "kind", "memory", "shapes")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.dates: dict[str, list[tuple[int, str]]] = {}
        for rank, path in enumerate(kind.dates):
            name, _, rest = path.partition(".")
            self.dates.setdefault(name, []).append((rank, rest))
        self.codes = {name: rank for rank, name in enumerate(kind.codes)}
        self.busy = self.codes.keys() | self.dates.keys() | _READERS.keys()
        self.memory: dict[str, dict[bytes, Piece]] = {
            "id": _Ids(),
            "text": _Narratives(),
            "meta": _Metas(),
        }
        self.shapes: dict[tuple[str, ...], _Shape] = {}

    def shape(self, names: tuple[str, ...]) -> _Shape:
        """Return the shape of these element names in this order."""
        known = self.shapes.get(names)
        if known is None:
            if len(self.shapes) >= _REMEMBERED:
                self.shapes.clear()
            known = self.shapes[names] = self._shape(names)
        return known

    def _shape(self, names: tuple[str, ...]) -> _Shape:
        offsets = list(accumulate(len(name.encode()) + 4 for name in names))
        return _Shape(
            [self.memory.setdefault(name, {}) for name in names],
            list(names),
            offsets,
            (offsets[-1] if offsets else 1) + 1,
            names.index("id") if "id" in names else -1,
        )


class Intake:
    """Reads resources, remembering elements. Belongs to one import; not for several threads."""

    def __init__(self) -> None:
        self._plans: dict[str, _Plan] = {}

    def take(self, body: bytes, kind: Kind, remote_id: str) -> Taken:
        """Judge and read one resource (UTF-8, no byte order mark), or raise InvalidInput."""
        plan = self._plans.get(kind.type)
        if plan is None:
            plan = self._plans[kind.type] = _Plan(kind)
        document.refuse_swarm(body)
        found = document.slices(body)
        shape = plan.shape(tuple(found))
        raws = list(map(bytes, found.values()))
        lengths = list(map(len, raws))
        starts = None
        if shape.frame + sum(lengths) != len(body):  # not compact, or a name stands twice
            starts = [field.start for field in document.fields(body).values()]
        return _merge(plan, shape, body, remote_id, raws, lengths, starts)


def _merge(  # noqa: C901, PLR0917  the hot path of every import: one loop without calls
    plan: _Plan,
    shape: _Shape,
    body: bytes,
    remote_id: str,
    raws: list[bytes],
    lengths: list[int],
    starts: list[int] | None,
) -> Taken:
    words: list[str] = []
    gaps: list[int] = []  # of references: distance from the end of the one before, length
    found_labels = flags = categories = last = 0
    rank = code_rank = 99
    start = end = value = None
    concept: tuple[Coding, ...] = ()
    patients: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    place = -1
    for known, raw in zip(shape.memories, raws):  # noqa: B905  as many by construction
        place += 1
        piece = known.get(raw) or _learn(plan, shape.names[place], raw, known)
        if piece is PLAIN:
            continue
        has = piece.has
        if has & _WORDY:
            words += piece.words
        if has & _PLACED:
            at = starts[place] if starts else shape.offsets[place] + sum(lengths[:place])
            for offset, length in piece.places:
                offset += at  # noqa: PLW2901  from here on in the whole resource
                gaps += (offset - last, length)
                last = offset + length
        if has & _BITTEN:
            found_labels |= piece.labels
            flags |= piece.flags
            categories |= piece.categories
        if has & _TIMED and piece.rank < rank:
            rank, start, end = piece.rank, piece.start, piece.end
        if has & _CODED and piece.code_rank < code_rank:
            code_rank, concept = piece.code_rank, piece.codings
        if has & _MORE:
            value = value if piece.value is None else piece.value
            patients += piece.patients
            links += piece.links
    place = shape.id_at
    if place < 0:
        flags |= Note.NO_ID
        gaps[:0] = (body.index(b"{") + 1, 0)
    else:
        at = starts[place] if starts else shape.offsets[place] + sum(lengths[:place])
        gaps[:0] = (at + 1, lengths[place] - 2)
    if plan.kind.type == "Binary":
        links += _binary(dict(zip(shape.names, raws, strict=True)))
    return _tuple(
        Taken,
        (
            plan.kind,
            remote_id,
            references.packed(gaps),
            tuple(dict.fromkeys(words)),
            found_labels,
            flags,
            categories,
            start,
            end,
            concept,
            value,
            patients,
            links,
        ),
    )


# ------------------------------------------------------------------------------ one element


def _learn(plan: _Plan, name: str, raw: bytes, known: dict[bytes, Piece]) -> Piece:
    """Judge and read an element that was not met before."""
    first = raw[0]
    if first == _QUOTE and b"\\" not in raw:
        said = raw[1:-1] if len(raw) <= 4 * MAX_WORDS else raw[1 : 4 * MAX_WORDS]  # spares copies
        piece = _said(plan, name, said.decode("utf-8", "ignore"))
    elif name == "text" and first == _BRACE:
        judge(raw)
        return PLAIN
    elif name == "valueQuantity" and (match := _QUANTITY.fullmatch(raw)):
        piece = Piece()
        piece.has, piece.value = _MORE, float(match[1])
    elif name not in plan.busy and _REFERENCES.fullmatch(raw):
        piece = _pointing(name, raw)
    else:
        value, look = judge(raw)
        piece = _piece(plan, name, value, look, raw)
    if name == "meta":
        raw = _timeless(raw)
    if len(raw) <= _REMEMBERED_BYTES:
        if len(known) >= _REMEMBERED:
            known.clear()
        known[raw] = piece
    return piece


def _pointing(name: str, raw: bytes) -> Piece:
    """Read one or several plain references; they are most of what differs between resources."""
    made = Piece()
    made.has, made.places = _PLACED, tuple(references.places(raw))
    if name in PATIENT_ELEMENTS and (patients := tuple(_patients(document.strict(raw)))):
        made.has, made.patients = made.has | _MORE, patients
    return made if made.places else PLAIN


def _said(plan: _Plan, name: str, said: str) -> Piece:
    """Read an element that is a plain string."""
    paths = plan.dates.get(name)
    if paths is None and not (name in _WORDS or name in _READERS or name in plan.codes):
        return PLAIN
    made = Piece()
    if name in _WORDS:
        made.words = (said[:MAX_WORDS],)
    return _told(plan, made, name, said)


def _piece(plan: _Plan, name: str, value: Any, look: "_Look", raw: bytes) -> Piece:
    """Read an element of any shape."""
    made = Piece()
    if name == "meta":
        made.labels = _bits(labels.of_security(reading.mapping(value).get("security")))
        made.has = _BITTEN if made.labels else 0
        return made if made.has else PLAIN
    made.words, made.links = tuple(look.words), tuple(look.links)
    if look.references or look.binaries:
        if look.references > raw.count(b'"reference"'):
            raise InvalidInput("An element's name is written with escapes.")
        made.places = tuple(references.places(raw))
    for coding in look.codings:
        made.labels |= _bits(labels.of_coding(coding))
    for said in look.words:
        made.labels |= _bits(labels.of_name(said[:200]))
    if look.modified or (name == "modifierExtension" and value):
        made.flags |= Note.MODIFIED
    if name in PATIENT_ELEMENTS:
        made.patients = tuple(_patients(value))
    return _told(plan, made, name, value)


def _told(plan: _Plan, made: Piece, name: str, value: Any) -> Piece:
    """Add what the element's name makes of its value, and sum up what there is."""
    if reader := _READERS.get(name):
        reader(made, value)
    if name in plan.codes:
        _read_concept(made, value, plan.codes[name])
    if name in plan.dates:
        _read_dates(made, value, plan.dates[name])
    has = 0
    for attribute, told in made.__dict__.items():
        if told != ():
            has |= _TELLS.get(attribute, 0)
    made.has = has
    return made if has else PLAIN


def _is_narrative(raw: bytes) -> bool:
    r"""Say whether well-formed JSON is exactly {"status":"...","div":"..."}.

    Eight quotes that are not escaped make two names and two strings; without `\\` a backslash
    before a quote escapes it.
    """
    return (
        raw.startswith(b'{"status":"')
        and b'","div":"' in raw
        and b"\\\\" not in raw
        and b"\\u" not in raw
        and raw.count(b'"') - raw.count(b'\\"') == _NARRATIVE_QUOTES
    )


def _bits(found: Iterable[tuple[str, labels.Label]]) -> int:
    bits = 0
    for _, label in found:
        bits |= int(label)
    return bits


def _read_concept(made: Piece, value: Any, rank: int) -> None:
    found = tuple(coding for coding in codings(value) if coding.code)
    best = preferred(value)
    if isinstance(value, str) and value:
        found = (Coding("", value),)
    elif best is not None:
        found = (best, *(coding for coding in found if coding != best))
        made.words += tuple(coding.code for coding in found)
    if found:
        made.code_rank, made.codings = rank, found


def _read_dates(made: Piece, value: Any, paths: Iterable[tuple[int, str]]) -> None:
    for rank, path in paths:
        for found in at(value, path) if path else [value]:
            moment = moment_of(found)
            if moment is None:
                continue
            if moment.start is None:
                made.flags |= Note.DATE_UNREADABLE
            elif rank < made.rank:
                made.rank, made.start = rank, moment.start
                made.end = None if moment.end == moment.start else moment.end


def _patients(value: Any) -> Iterable[str]:
    for each in value if isinstance(value, list) else [value]:
        said = each.get("reference") if isinstance(each, dict) else None
        pointed = references.target(said) if isinstance(said, str) else None
        if pointed and pointed.type == "Patient":
            yield pointed.id


def _status(made: Piece, value: Any) -> None:
    if value == "entered-in-error" or any(
        coding.code == "entered-in-error" for coding in codings(value)
    ):
        made.flags |= Note.IN_ERROR


def _categories(made: Piece, value: Any) -> None:
    made.categories = category_bits(value)


def _quantity(made: Piece, value: Any) -> None:
    number = value.get("value") if isinstance(value, dict) else value
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        made.value = float(number)


_READERS: Final[Mapping[str, Callable[[Piece, Any], None]]] = {
    "status": _status,
    "verificationStatus": _status,
    "category": _categories,
    "valueQuantity": _quantity,
    "valueInteger": _quantity,
    "valueDecimal": _quantity,
}


# ---------------------------------------------------------------------------- judging bytes


class _Look:
    """What a walk over an element's values met."""

    __slots__ = ("binaries", "codings", "links", "modified", "names", "references", "words")

    def __init__(self) -> None:
        self.names = 0  # of elements, in all objects
        self.words: list[str] = []
        self.codings: list[Coding] = []
        self.links: list[Link] = []
        self.references = 0
        self.binaries = 0
        self.modified = False


def judge(raw: bytes) -> tuple[Any, _Look]:
    """Read one element under the rules of `document.loads`; decimals come as floats.

    The quick way proves without a second parse that no name stands twice: names are counted in the
    bytes (as `":`) and in what was parsed. Wherever the count could be fooled (white space before
    a colon, an escaped quote before one) or does not agree, the strict reader decides.
    """
    quick = (
        b'\\":' not in raw
        and b" :" not in raw
        and b"\\u" not in raw
        and b"\n:" not in raw
        and b"\t:" not in raw
        and b"\r:" not in raw
        and raw.count(b"{") + raw.count(b"[") < document.MAX_DEPTH
    )
    if quick:
        try:
            value = _QUICK.decode(raw)
        except (msgspec.DecodeError, ValueError) as problem:
            raise InvalidInput("This is not well-formed JSON.") from problem
        look = _look(value)
        if look.names == raw.count(b'":'):
            return value, look
    value = document.strict(raw, document.MAX_DEPTH - 1)
    return value, _look(value)


def _number(said: str) -> float:
    return float(document.number(said))


_QUICK: Final = msgspec.json.Decoder(float_hook=_number)


def _look(value: Any) -> _Look:  # noqa: C901, PLR0912  one flat walk: it runs for each new element
    look = _Look()
    waiting = [value]
    while waiting:
        found = waiting.pop()
        kind = type(found)
        if kind is dict:
            look.names += len(found)
            for name, inner in found.items():
                kind = type(inner)
                if kind is str:
                    if name in _WORDS:
                        look.words.append(inner[:MAX_WORDS])
                    elif name == "reference":
                        look.references += 1
                    elif name == "code" and type(found.get("system")) is str:
                        look.codings.append(Coding(found["system"], inner))
                    elif name in ("url", "data"):
                        _look_at_file(look, found, name, inner)
                elif kind is dict or kind is list:
                    if name == "modifierExtension" and inner:
                        look.modified = True
                    waiting.append(inner)
                elif kind is int and not -_MOST_DIGITS < inner < _MOST_DIGITS:
                    raise InvalidInput("This holds a number longer than 40 characters.")
        elif kind is list:
            waiting.extend(reversed(found))
        elif kind is str:
            continue
        elif kind is int and not -_MOST_DIGITS < found < _MOST_DIGITS:
            raise InvalidInput("This holds a number longer than 40 characters.")
    return look


# ------------------------------------------------------------------------------------ files


def _look_at_file(look: _Look, found: Mapping[str, Any], name: str, said: str) -> None:
    """Note an Attachment (R4 §2.24.0.8): by address, or with its bytes inside."""
    if "contentType" not in found and name != "url":
        return
    if name == "url":
        if "Binary/" in said or "Binary\\/" in said:
            look.binaries += 1
        if "contentType" not in found or not said:
            return
        look.links.append(Link(said[:2000], text(found.get("contentType"))))
        return
    held = inline(said)
    if held is not None:
        number = sum(link.data is not None for link in look.links) + 1
        look.links.append(Link(f"#{number}", text(found.get("contentType")), held))


def inline(said: str) -> bytes | None:
    """Return the bytes of base64 text, or None if it is not base64 (white space is allowed)."""
    try:
        return b64decode("".join(said.split()), validate=True) or None
    except (Base64Error, ValueError):
        return None


def _binary(fields: Mapping[str, bytes]) -> tuple[Link, ...]:
    """Return what a Binary resource carries (R4 Binary; DSTU2 calls its data `content`)."""
    media_type = _string(fields.get("contentType"))
    held = inline(_string(fields.get("data") or fields.get("content")))
    return (Link("#1", media_type, held),) if held is not None else ()


def _string(raw: bytes | None) -> str:
    if raw is None:
        return ""
    value = document.strict(raw)
    return value if isinstance(value, str) else ""

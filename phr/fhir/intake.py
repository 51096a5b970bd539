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
from operator import itemgetter, sub
from typing import Any, Final, NamedTuple

import msgspec

from phr.errors import InvalidInput
from phr.fhir import document, labels, measures, reading, references
from phr.fhir.check import Note
from phr.fhir.kinds import KINDS, PATIENT_ELEMENTS, Kind
from phr.fhir.reading import Coding, at, category_bits, codings, moment_of, preferred, text
from phr.told import Fault, Told

MAX_ID: Final = 256  # R4 allows 64; Epic sends up to 130
MAX_WORDS: Final = 20_000  # characters of search text taken from one resource
_REMEMBERED_BYTES: Final = 1024
_REMEMBERED: Final = 2048  # per type and element name
# Three elements so frequent and so different each time that their shape is checked in one match:
# what fits has each name once, no depth, no absurd number, and no escape that hides a character.
_NARRATIVE = re.compile(rb'\{"status":"[^"\\]*+","div":"[^"\\]*+(?:\\[^u][^"\\]*+)*+"\}', re.DOTALL)
_REFERENCES = re.compile(rb'\[?\{"reference":"[^"\\]++"\}(?:,\{"reference":"[^"\\]++"\})*+\]?')
_QUANTITY = re.compile(
    rb'\{"value":(-?[0-9]{1,15}(?:\.[0-9]{1,15})?)((?:,"unit":"[^"\\]*+")?'
    rb'(?:,"system":"http://unitsofmeasure.org")?(?:,"code":"[^"\\]*+")?)\}'
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


class Piece(msgspec.Struct, gc=False):
    """What one element tells. `has` says which of the rest were set, so that merging is quick."""

    has: int = 0
    words: tuple[str, ...] = ()
    places: tuple[tuple[int, int], ...] = ()  # of references, from the element's first byte
    labels: int = 0
    flags: int = 0
    categories: int = 0
    rank: int = 99  # of the date path it is on; smaller is better
    start: int | None = None
    end: int | None = None
    code_rank: int = 99
    codings: tuple[Coding, ...] = ()
    value: float | None = None
    rest: bytes = b""  # of the Quantity: see fhir.measures
    patients: tuple[str, ...] = ()  # ids of the patients whose record this says it is
    links: tuple[Link, ...] = ()

    def sum_up(self) -> "Piece":
        """Set `has`, and return this or, if it tells nothing, the piece that stands for that."""
        self.has = (
            (_WORDY if self.words else 0)
            | (_PLACED if self.places else 0)
            | (_BITTEN if self.labels or self.flags or self.categories else 0)
            | (_TIMED if self.rank != _NOWHERE else 0)
            | (_CODED if self.code_rank != _NOWHERE else 0)
            | (_MORE if self.value is not None or self.patients or self.links else 0)
        )
        return self if self.has else PLAIN


_NOWHERE: Final = 99  # the rank of what is on no path
_WORDY, _PLACED, _BITTEN, _TIMED, _CODED, _MORE = (1 << bit for bit in range(6))
PLAIN: Final = Piece()
_look_up: Final = dict.__getitem__  # spares a dict with `__missing__` the way through Python


class Taken(msgspec.Struct, frozen=True, gc=False):
    """What the store needs to know of one resource.

    `words` are distinct pieces of text for search, `codings` the concept it is about (preferred
    coding first), `value` its number where it has one, `measure` what the number counts (see
    `fhir.measures`), `splices` the blob of `references.pack`.
    """

    kind: Kind
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
    measure: measures.Key | None


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
        raise document.Malformed("This is not a well-formed JSON object.") from problem
    return found.resourceType, found.id


def glance(body: bytes) -> tuple[Kind, bytes] | None:
    """Return kind and id from the first bytes, where most servers write them; else None.

    A name that stands twice is found when the rest is judged.
    """
    match = _HEAD.match(body)
    if match is None:
        return None
    name, id_ = match.groups()
    kind = _BY_NAME.get(name)
    return None if kind is None else (kind, id_)


def named(type_: Any, id_: Any, body: bytes, url: str | None) -> tuple[Kind, str]:
    """Return the kind and remote id of a resource, or raise InvalidInput.

    Without an id of its own it takes the fullUrl's, else the hash of its bytes, so that the same
    file gives the same records again.
    """
    kind = KINDS.get(type_) if isinstance(type_, str) else None
    if kind is None:
        sentence = "Its resourceType is missing or not a FHIR resource type."
        raise InvalidInput(Told(sentence, Fault.NO_RECORD))
    if type_ == "OperationOutcome":
        sentence = "This is a message of the server, not a record."
        raise InvalidInput(Told(sentence, Fault.NO_RECORD))
    if id_ is None:
        return kind, _id_from(url) or f"sha256-{sha256(body).hexdigest()[:32]}"
    if not isinstance(id_, str) or not id_ or len(id_) > MAX_ID:
        raise InvalidInput(Told("Its id is empty, too long, or not text.", Fault.BAD_ID))
    if not id_.isprintable():
        raise InvalidInput(Told("Its id holds control characters.", Fault.BAD_ID))
    return kind, id_


def _id_from(url: str | None) -> str | None:
    pointed = references.target(url) if url else None
    return pointed.id if pointed else None


class _Memory(dict[bytes, Piece]):
    """What the elements of one name told, by their bytes; a new one is judged and remembered."""

    def __init__(self, plan: "_Plan", name: str) -> None:
        super().__init__()
        self._plan, self._name = plan, name

    def __missing__(self, raw: bytes) -> Piece:
        """Judge and read an element that was not met before."""
        piece = _learn(self._plan, self._name, raw)
        self.keep(raw, piece)
        return piece

    def keep(self, raw: bytes, piece: Piece) -> None:
        """Remember a piece unless it is large; forget the rest when there are too many."""
        if len(raw) <= _REMEMBERED_BYTES:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[raw] = piece


class _Ids(_Memory):
    """The memory of `id` elements: they tell nothing but themselves."""

    def __missing__(self, raw: bytes) -> Piece:
        """Return the piece that tells nothing."""
        return PLAIN


class _Narratives(_Memory):
    """The memory of narratives: nothing in them that is not coded too, so nothing is kept."""

    def __missing__(self, raw: bytes) -> Piece:
        """Return the piece that tells nothing, if `raw` is a narrative and nothing else."""
        return PLAIN if _NARRATIVE.fullmatch(raw) else _learn(self._plan, self._name, raw)


class _Metas(_Memory):
    """The memory of meta, which differs from others of its kind in the time of its update only.

    It is remembered without that time. The time holds neither quote nor backslash, so what was
    judged with another time in this place is judged with this one.
    """

    def __missing__(self, raw: bytes) -> Piece:
        """Return what is known of `raw`, whatever its time."""
        timeless = _timeless(raw)
        piece = self.get(timeless)
        if piece is None:
            piece = _learn(self._plan, self._name, raw)
            self.keep(timeless, piece)
        return piece


def _timeless(raw: bytes) -> bytes:
    """Return a meta element without the value of its `lastUpdated`."""
    before, name, rest = raw.partition(b'"lastUpdated":"')
    said, quote, after = rest.partition(b'"')
    return raw if not quote or b"\\" in said else before + name + after


class _Shape(NamedTuple):
    """What is the same for all resources of a type that have the same elements in this order."""

    memories: tuple[_Memory, ...]
    offsets: tuple[int, ...]  # of each element's value, as if all values before it were empty
    frame: int  # bytes of everything but the values, in compact JSON
    id_at: int  # place of `id` among the elements; -1 if there is none
    told: tuple[str, ...]  # the elements of a measure, and what takes them out; () and None: none
    pick: Callable[[list[bytes]], tuple[bytes, ...]] | None


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
        self.memory: dict[str, _Memory] = {
            "id": _Ids(self, "id"),
            "text": _Narratives(self, "text"),
            "meta": _Metas(self, "meta"),
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
        for name in names:
            if name not in self.memory:
                self.memory[name] = _Memory(self, name)
        offsets = tuple(accumulate(len(name.encode()) + 4 for name in names))
        told = self._told(names)
        return _Shape(
            tuple(self.memory[name] for name in names),
            offsets,
            (offsets[-1] if offsets else 1) + 1,
            names.index("id") if "id" in names else -1,
            told,
            itemgetter(*map(names.index, told)) if told else None,
        )

    def _told(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the elements of a measure: of an Observation with one value and no parts."""
        values = [name for name in names if name.startswith(("value", "component"))]
        if self.kind.type != "Observation" or values != ["valueQuantity"]:
            return ()
        told = tuple(name for name in names if name in measures.ELEMENTS)
        return told if len(told) > 1 else ()  # code and status are there (R4 §10.1.3)


class Intake:
    """Reads resources, remembering elements. Belongs to one import; not for several threads."""

    def __init__(self) -> None:
        self._plans: dict[str, _Plan] = {}

    def take(self, body: bytes, kind: Kind) -> Taken:
        """Judge and read one resource (UTF-8, no byte order mark), or raise InvalidInput."""
        plan = self._plans.get(kind.type)
        if plan is None:
            plan = self._plans[kind.type] = _Plan(kind)
        document.refuse_swarm(body)
        found = document.slices(body)
        shape = plan.shape(tuple(found))
        raws = list(map(bytes, found.values()))
        before = list(accumulate(map(len, raws), initial=0))  # bytes of the values before each
        if shape.frame + before[-1] != len(body):  # not compact, or a name stands twice
            starts = [field.start for field in document.fields(body).values()]
            before = list(map(sub, starts, shape.offsets))
        return _merge(plan, shape, body, raws, before)


def _merge(  # noqa: C901  the hot path of every import: one loop without calls
    plan: _Plan,
    shape: _Shape,
    body: bytes,
    raws: list[bytes],
    before: list[int],
) -> Taken:
    words: list[str] = []
    found_labels = flags = categories = last = 0
    rank = code_rank = _NOWHERE
    start = end = value = None
    concept: tuple[Coding, ...] = ()
    patients: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    rest = b""
    offsets = shape.offsets
    place = shape.id_at
    if place < 0:
        flags = int(Note.NO_ID)
        gaps = [body.index(b"{") + 1, 0]  # of id and references: distance from the end of the one
    else:  # before (of the first: from the beginning), length
        gaps = [offsets[place] + before[place] + 1, len(raws[place]) - 2]
    for place, piece in enumerate(map(_look_up, shape.memories, raws)):
        if piece is PLAIN:
            continue
        has = piece.has
        if has & _WORDY:
            words += piece.words
        if has & _PLACED:
            at = offsets[place] + before[place]
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
            rest = rest or piece.rest
            patients += piece.patients
            links += piece.links
    if plan.kind.type == "Binary":
        links += _binary(document.slices(body))
    return Taken(
        plan.kind,
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
        (shape.told, shape.pick(raws), rest) if rest and shape.pick else None,
    )


# ------------------------------------------------------------------------------ one element


def _learn(plan: _Plan, name: str, raw: bytes) -> Piece:
    """Judge and read one element."""
    first = raw[0]
    if first == _QUOTE and b"\\" not in raw:
        said = raw[1:-1] if len(raw) <= 4 * MAX_WORDS else raw[1 : 4 * MAX_WORDS]  # spares copies
        return _said(plan, name, said.decode("utf-8", "ignore"))
    if name == "text" and first == _BRACE:
        judge(raw)
        return PLAIN
    if name == "valueQuantity" and (match := _QUANTITY.fullmatch(raw)):
        literal, told = match.groups()
        return Piece(_MORE, value=float(literal), rest=measures.rest(literal, told))
    if name not in plan.busy and _REFERENCES.fullmatch(raw):
        return _pointing(name, raw)
    value, look = judge(raw)
    return _piece(plan, name, value, look, raw)


def _pointing(name: str, raw: bytes) -> Piece:
    """Read one or several plain references; they are most of what differs between resources."""
    made = Piece(places=references.plain_places(raw))
    if name in PATIENT_ELEMENTS:
        made.patients = tuple(_patients(document.strict(raw)))
    return made.sum_up()


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
        return made.sum_up()
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
    if name == "valueQuantity" and isinstance(value, dict):
        made.rest = measures.rest_of(raw)
    return _told(plan, made, name, value)


def _told(plan: _Plan, made: Piece, name: str, value: Any) -> Piece:
    """Add what the element's name makes of its value, and sum up what there is."""
    if reader := _READERS.get(name):
        reader(made, value)
    if name in plan.codes:
        _read_concept(made, value, plan.codes[name])
    if name in plan.dates:
        _read_dates(made, value, plan.dates[name])
    return made.sum_up()


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


def _security(made: Piece, value: Any) -> None:
    made.labels |= _bits(labels.of_security(value))


_READERS: Final[Mapping[str, Callable[[Piece, Any], None]]] = {
    "securityLabel": _security,
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
            raise document.Malformed("This is not well-formed JSON.") from problem
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
                    elif name == "attachment" and kind is dict and "contentType" not in inner:
                        _look_at_untyped_file(look, inner)
                    waiting.append(inner)
                elif kind is int and not -_MOST_DIGITS < inner < _MOST_DIGITS:
                    raise document.Malformed("This holds a number longer than 40 characters.")
        elif kind is list:
            waiting.extend(reversed(found))
        elif kind is str:
            continue
        elif kind is int and not -_MOST_DIGITS < found < _MOST_DIGITS:
            raise document.Malformed("This holds a number longer than 40 characters.")
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


def _look_at_untyped_file(look: _Look, found: Mapping[str, Any]) -> None:
    """Note an Attachment that does not say what it is (contentType is 0..1)."""
    for name in ("url", "data"):
        if isinstance(said := found.get(name), str):
            _look_at_file(look, {"contentType": ""}, name, said)


def inline(said: str) -> bytes | None:
    """Return the bytes of base64 text, or None if it is not base64 (white space is allowed)."""
    try:
        return b64decode("".join(said.split()), validate=True) or None
    except (Base64Error, ValueError):
        return None


def _binary(fields: Mapping[str, msgspec.Raw]) -> tuple[Link, ...]:
    """Return what a Binary resource carries (R4 Binary; DSTU2 calls its data `content`)."""
    media_type = _string(fields.get("contentType"))
    held = inline(_string(fields.get("data") or fields.get("content")))
    return (Link("#1", media_type, held),) if held is not None else ()


def _string(raw: msgspec.Raw | None) -> str:
    if raw is None:
        return ""
    value = document.strict(bytes(raw))
    return value if isinstance(value, str) else ""

"""MIME entities as raw octets (RFC 2045, 2046): cut apart within limits, and written.

What a signature covers are octets, so a part is cut out of what came and never written anew.
Header fields are read by the standard library. Not here: what is in them (`smime`, `message`).
"""

import binascii
import quopri
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.header import Header, decode_header, make_header
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import compat32
from typing import Final
from urllib.parse import quote

MOST: Final = 20 << 20  # bytes of a message as it comes
MOST_HEAD: Final = 64 << 10  # bytes of the header fields of one entity
MOST_PARTS: Final = 200  # of one multipart
LONGEST_BOUNDARY: Final = 70  # RFC 2046 §5.1.1

_LINE: Final = 76  # RFC 2045 §6.8
_LONE_LF: Final = re.compile(rb"(?<!\r)\n")
_EMPTY_LINE: Final = re.compile(rb"\r?\n\r?\n")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]+\Z")


@dataclass(frozen=True, slots=True)
class Entity:
    """One entity, cut at its empty line; `body` is still encoded for its way."""

    head: "Message[str, str]" = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def media_type(self) -> str:
        """Lower-case `type/subtype`; text/plain where there is none (RFC 2045 §5.2)."""
        return self.head.get_content_type()

    def field(self, name: str) -> str:
        """Return the first header field of a name as text in one line, "" where it is absent."""
        value = self.head.get(name)
        return " ".join(str(value).split()) if value is not None else ""

    def fields(self, name: str) -> list[str]:
        """Return every header field of a name."""
        return [" ".join(str(value).split()) for value in self.head.get_all(name, [])]


def read(raw: bytes) -> Entity:
    """Cut an entity into its header fields and its body. Raises ValueError."""
    if raw[:1] in {b"\n", b"\r"}:  # no header fields at all (RFC 2046 §5.1)
        head, body = b"", raw[2:] if raw.startswith(b"\r\n") else raw[1:]
    else:
        gap = _EMPTY_LINE.search(raw, 0, MOST_HEAD)
        if gap is None and len(raw) > MOST_HEAD:
            raise ValueError("the header fields are too long")
        head, body = (raw, b"") if gap is None else (raw[: gap.start()], raw[gap.end() :])
    return Entity(BytesHeaderParser(policy=compat32).parsebytes(head), body)


def canonical(raw: bytes) -> bytes:
    """Return text with CRLF at the end of each line, as signatures cover it (RFC 8551 §3.1.1)."""
    return _LONE_LF.sub(b"\r\n", raw)


def is_plain(raw: bytes) -> bool:
    """Say whether bytes are lines of ASCII that end in CRLF: no relay changes those."""
    ends = raw.count(b"\r\n")
    return (
        raw.isascii() and b"\0" not in raw and raw.count(b"\n") == ends and raw.count(b"\r") == ends
    )


def decoded(entity: Entity) -> bytes:
    """Return the content of a single entity (RFC 2045 §6). Raises ValueError."""
    way = entity.field("Content-Transfer-Encoding").lower()
    if way == "base64":
        try:
            return binascii.a2b_base64(entity.body)
        except binascii.Error:
            raise ValueError("the base64 is broken") from None
    if way == "quoted-printable":
        return quopri.decodestring(entity.body)
    if way in {"", "7bit", "8bit", "binary"}:
        return entity.body
    raise ValueError("the transfer encoding is unknown")


def parts(entity: Entity) -> list[bytes]:
    """Return the raw parts of a multipart (RFC 2046 §5.1.1). Raises ValueError.

    The line end before a delimiter belongs to the delimiter. What stands before the first and
    behind the last one is left out; a multipart without its closing delimiter is cut off.
    """
    boundary = entity.head.get_boundary("")
    if not 0 < len(boundary) <= LONGEST_BOUNDARY or not boundary.isascii():
        raise ValueError("the boundary is malformed")
    line = re.compile(
        rb"(?:\A|\r?\n)--" + re.escape(boundary.encode()) + rb"(--)?[ \t]*(?=\r?\n|\Z)"
    )
    found: list[bytes] = []
    begins: int | None = None
    for delimiter in line.finditer(entity.body):
        if begins is not None:
            found.append(entity.body[begins : max(begins, delimiter.start())])
        if delimiter.group(1) is not None:
            return found
        if len(found) >= MOST_PARTS:
            raise ValueError("there are too many parts")
        begins = delimiter.end() + (2 if entity.body[delimiter.end() :][:2] == b"\r\n" else 1)
    raise ValueError("the last delimiter is missing")


def entity(fields: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """Write an entity; `fields` are checked, so that no value can begin a line of its own.

    Raises ValueError for a value with control characters.
    """
    lines = []
    for name, value in fields:
        if _CONTROL.search(value):
            raise ValueError("a header field holds control characters")
        text = value if value.isascii() else Header(value, "utf-8").encode(linesep="\r\n")
        lines.append(f"{name}: {text}\r\n".encode("ascii"))
    return b"".join([*lines, b"\r\n", body])


def multipart(fields: Iterable[tuple[str, str]], pieces: Iterable[bytes], boundary: str) -> bytes:
    """Write a multipart around entities, which stay as they are."""
    edge = f"--{boundary}".encode("ascii")
    body = b"".join(b"%b\r\n%b\r\n" % (edge, piece) for piece in pieces)
    return entity(fields, body + edge + b"--\r\n")


def in_base64(
    fields: Iterable[tuple[str, str]], content: bytes, *, more: Iterable[tuple[str, str]] = ()
) -> bytes:
    """Write an entity whose content goes as base64 (RFC 2045 §6.8)."""
    letters = binascii.b2a_base64(content, newline=False)
    lines = [letters[at : at + _LINE] for at in range(0, len(letters), _LINE)]
    text = b"\r\n".join([*lines, b""])
    return entity([*fields, ("Content-Transfer-Encoding", "base64"), *more], text)


def file_name(name: str) -> str:
    """Write a file's name as a parameter (RFC 2231 §4 where it is not plain)."""
    if _TOKEN.match(name):
        return f'filename="{name}"'
    return f"filename*=UTF-8''{quote(_CONTROL.sub('_', name), safe='')}"


def words(text: str) -> str:
    """Return a header value for people: encoded words read (RFC 2047), control characters gone."""
    try:
        said = str(make_header(decode_header(text)))
    except (ValueError, LookupError):  # an unknown or broken character set
        said = text
    return " ".join(_CONTROL.sub(" ", said).split())


def characters(content: bytes, charset: str | None) -> str:
    """Return text in a named character set; what does not fit into it is shown as such."""
    try:
        return content.decode(charset or "utf-8", "replace")
    except (LookupError, ValueError):
        return content.decode("utf-8", "replace")

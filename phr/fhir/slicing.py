"""Cuts files of any size into raw resources, holding little more than one of them in memory.

Understood: a Bundle, one resource, an array of resources, NDJSON (or JSON values in a row). What
is broken comes out as an item too, so that it can be quarantined and the rest goes on.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO, Final

from phr.errors import InvalidInput
from phr.fhir import document
from phr.fhir.cutting import value_end
from phr.fhir.document import Item

CHUNK: Final = 256 * 1024
LARGEST: Final = 40 * 1024 * 1024  # of one item: a kept attachment in base64, and what is around
MOST_OF_A_LINE: Final = 1024 * 1024  # of a line that is no record: what a quarantine keeps
TOO_LARGE: Final = "One item of this file is larger than 40 MB."

_SPACE = re.compile(r"[ \t\r\n]*+")
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BEFORE_NEXT = re.compile(r"[ \t\r\n,]*+")


class _Window:
    """The part of a file that is being looked at."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.text = ""
        self.at = 0
        self.over = False
        self.more()
        if self.text.startswith("\xef\xbb\xbf"):
            self.at = 3

    def more(self) -> bool:
        """Read on; the more is unread already, the more is read. False at the end of the file."""
        if self.over:
            return False
        left = self.text[self.at :]
        room = LARGEST + CHUNK - len(left)  # twice as much each time, but never past the largest
        read = self._file.read(max(CHUNK, min(len(left), room)))
        self.over = not read
        self.text, self.at = left + read.decode("latin-1"), 0
        return not self.over

    def next_is(self) -> str:
        """Go to the next character that is not white space and return it ("" at the end)."""
        return self._after(_SPACE)

    def next_value(self) -> str:
        """As `next_is`, over commas too."""
        return self._after(_BEFORE_NEXT)

    def _after(self, pattern: re.Pattern[str]) -> str:
        while True:
            match = pattern.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self, *, rows: bool = False) -> bytes:
        """Take the JSON value that begins here.

        A broken one is taken up to its closing bracket, with `rows` (NDJSON: one object a line) no
        further than to a line that begins with another object. Raises InvalidInput when the file
        ends inside, or the value is too large.
        """
        while (end := value_end(self.text, self.at, over=self.over, rows=rows)) is None:
            if len(self.text) - self.at > LARGEST:
                raise InvalidInput(TOO_LARGE)
            if not self.more():
                raise InvalidInput("The file ends in the middle.")
        taken = self.text[self.at : end]
        self.at = end
        return taken.encode("latin-1")

    def line(self) -> bytes:
        """Pass over the rest of this line and return it; of a very long one the beginning."""
        taken = ""
        while (end := self.text.find("\n", self.at)) < 0:
            taken += self.text[self.at :][: MOST_OF_A_LINE - len(taken)]
            self.at = len(self.text)
            if not self.more():
                return taken.encode("latin-1")
        taken += self.text[self.at : end][: MOST_OF_A_LINE - len(taken)]
        self.at = end
        return taken.encode("latin-1")


# ----------------------------------------------------------------------------------- files


def slices(file: BinaryIO, name: str = "") -> Iterator[Item]:
    """Yield the resources of one file as items, with their places in it ("labs.ndjson line 3").

    Raises InvalidInput when the file holds no JSON at all; a break further on ends in an item
    whose bytes say where it broke.
    """
    window = _Window(file)
    place = f"{name} " if name else ""
    first = window.next_is()
    if first == "[":
        window.at += 1
        yield from _elements(window, place, entries=False)
    elif first == "{":
        yield from _objects(window, place)
    elif first == "":
        raise InvalidInput("This file is empty.")
    else:
        raise InvalidInput("This file is neither FHIR JSON nor a clinical document (C-CDA).")


def _objects(window: _Window, place: str) -> Iterator[Item]:
    """Read JSON objects one after the other: a Bundle, a resource, or NDJSON."""
    number = 0
    while window.next_value():
        number += 1
        if window.text[window.at] == "{":
            label = f"{place}line {number}" if number > 1 else place.strip()
            yield from _object(window, place, label, number)
        else:
            yield Item(window.line(), f"{place}line {number}")


def _object(window: _Window, place: str, label: str, number: int) -> Iterator[Item]:
    """Read one object: a Bundle is opened where it stands, all else is one item."""
    if _opens_bundle(window):
        inside = place if number == 1 else f"{label} "
        yield from _bundle(window, inside)
        return
    where = label or f"{place}line {number}"
    try:
        body = window.value(rows=True)
    except InvalidInput as problem:
        if problem.sentence != TOO_LARGE:
            yield Item(_rest(window), where)
        elif "\n" in window.text:  # one resource over many lines
            yield Item(_rest(window), f"{where} ({TOO_LARGE})")
        else:  # a row: the next ones go on
            yield Item(window.line(), f"{where} ({TOO_LARGE})")
        return
    several = number > 1 or window.next_is() != ""
    yield Item(body, f"{place}line {number}" if several else label or "the resource")


def _rest(window: _Window) -> bytes:
    """Give up on the rest of a file; what is in sight of it is kept for the quarantine."""
    taken = window.text[window.at :][:CHUNK].encode("latin-1")
    window.text, window.at, window.over = "", 0, True
    return taken


_TYPE = re.compile(r'"resourceType"[ \t\r\n]*:[ \t\r\n]*"([A-Za-z]*)"')


def _opens_bundle(window: _Window) -> bool:
    """Say whether the object here is a Bundle: by its own resourceType, wherever that stands."""
    at = window.at + 1
    while True:
        at = _skip(window, at, _BEFORE_NEXT)
        key = _STRING.match(window.text, at)
        if key is None:
            return False
        if match := _TYPE.match(window.text, at):
            return match[1] == "Bundle"
        if key[0] == '"entry"' and _bundle_like(window, key.end()):
            return True
        colon = _skip(window, key.end(), _SPACE)
        start = _skip(window, colon + 1, _SPACE)
        if start >= len(window.text):
            return False
        end = value_end(window.text, start, over=window.over)
        if end is None:
            return False  # a long element before the type: not a Bundle anybody writes
        at = end


def _bundle_like(window: _Window, at: int) -> bool:
    """Say whether entries look like a Bundle's, when they come before the resourceType."""
    head = window.text[at : at + 400]
    return '"resource"' in head or '"fullUrl"' in head


def _skip(window: _Window, at: int, pattern: re.Pattern[str]) -> int:
    match = pattern.match(window.text, at)
    return match.end() if match else at


def _bundle(window: _Window, place: str) -> Iterator[Item]:
    """Read a Bundle's elements in order, opening `entry` where it stands."""
    window.at += 1
    while window.next_value() == '"':
        try:
            name = window.value()
            if window.next_is() != ":":
                break
            window.at += 1
            if name == b'"entry"' and window.next_is() == "[":
                window.at += 1
                yield from _elements(window, place, entries=True)
            elif window.next_is():
                window.value()
        except InvalidInput as problem:
            yield Item(_rest(window), f"{place}({problem.sentence})")
            return
    if window.next_is() == "}":
        window.at += 1
    else:
        yield Item(_rest(window), f"{place}after the entries")


def _elements(window: _Window, place: str, *, entries: bool) -> Iterator[Item]:
    """Read the elements of an array: a Bundle's entries, or resources as they are."""
    number = 0
    while (first := window.next_value()) not in ("]", ""):
        number += 1
        label = f"{place}entry {number}"
        try:
            raw = window.value()
        except InvalidInput:
            yield Item(_rest(window), label)
            return
        if not entries or first != "{":
            if raw != b"null":
                yield Item(raw, label)
            continue
        yield from _entry(raw, label)
    if window.next_is() == "]":
        window.at += 1
    else:
        yield Item(b"", f"{place}entry {number + 1}: the file ends in the middle")


def _entry(raw: bytes, label: str) -> Iterator[Item]:
    """Cut the resource out of one entry; an entry without one is no item (a deletion, a note)."""
    try:
        resource, url = document.entry(raw)
    except InvalidInput:
        yield Item(raw, label)
        return
    if resource is not None:
        yield Item(resource, label, url)

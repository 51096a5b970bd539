"""Finds where JSON values end, in text that may be broken inside: a cutter, not a judge.

Bytes are looked at as Latin-1 text: one character is one byte, and the structure of JSON is ASCII.
So the standard decoder can tell where a value ends without a copy being rebuilt.
"""

import json
import re
from typing import Final

QUICK: Final = 4 * 1024 * 1024  # larger values are not decoded to find their end

_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
_SPACE = re.compile(r"[ \t\r\n]*+")
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[{}\[\]]', re.DOTALL)
_SCALAR = re.compile(r"[^,\]}\s]++")


def value_end(text: str, at: int, *, over: bool = True, rows: bool = False) -> int | None:
    """Return where the JSON value at `at` ends, or None if that is not in sight.

    A broken or very deep one ends at its closing bracket, with `rows` (NDJSON) at the latest
    before a line that begins with another object. `over` says that no more text will come.
    """
    if text[at] in "{[":
        end = _decoded(text, at)
        if end is None:
            end = _closing(text, at)
            following = text.find("\n{", at, end) if rows else -1
            end = end if following < 0 else following
        return end
    if text[at] == '"':
        match = _STRING.match(text, at)
    else:
        match = _SCALAR.match(text, at)
        if match and match.end() == len(text) and not over:
            return None
    return match.end() if match else (at + 1 if text[at] in ",]}" else None)


def _decoded(text: str, at: int) -> int | None:
    if len(text) - at > QUICK:  # millions of tiny values would take a hundred times their bytes
        return None
    try:
        return _DECODER.raw_decode(text, at)[1]
    except (ValueError, RecursionError):
        return None


def _closing(text: str, at: int) -> int | None:
    """Return the end of a value by counting its brackets."""
    level = 0
    for match in _TOKEN.finditer(text, at):
        first = text[match.start()]
        if first == '"':
            continue
        level += 1 if first in "{[" else -1
        if level == 0:
            return match.end()
    return None


def members(raw: bytes) -> dict[str, bytes] | None:
    """Cut an object into raw values by name, whatever is inside them; None if it is not whole."""
    text = raw.decode("latin-1")
    found: dict[str, bytes] = {}
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        return None
    at = _skip(text, at + 1)
    while at < len(text) and text[at] == '"':
        key = _STRING.match(text, at)
        colon = _skip(text, key.end()) if key else len(text)
        begin = _skip(text, colon + 1)
        end = value_end(text, begin) if text[colon : colon + 1] == ":" and text[begin:] else None
        if key is None or end is None:
            return None
        found[key[0][1:-1]] = text[begin:end].encode("latin-1")
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
    whole = text[at : at + 1] == "}" and _skip(text, at + 1) == len(text)
    return found if whole else None


def elements(raw: bytes) -> list[bytes] | None:
    """Cut an array into its raw elements, whatever is inside them; None if it is not whole."""
    text = raw.decode("latin-1")
    found = []
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        return None
    at = _skip(text, at + 1)
    while at < len(text) and text[at] != "]":
        end = value_end(text, at)
        if end is None:
            return None
        found.append(text[at:end].encode("latin-1"))
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
    return found if text[at : at + 1] == "]" and _skip(text, at + 1) == len(text) else None


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at

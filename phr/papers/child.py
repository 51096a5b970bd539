"""The process in which one hostile file is read: bytes in, one Reading as JSON out, then gone.

`python -m phr.papers.child READER` with the file on standard input. It has no secrets in its
environment, writes no file, and dies at its limits of memory and time.
"""

import base64
import os
import resource
import sys
from dataclasses import replace
from typing import Final

from phr.papers import cda, cda_entries
from phr.papers.kinds import ENTRIES, INSIDE, Reader, kind_of
from phr.papers.readers import READERS
from phr.papers.reading import BROKEN, Reading

_MEMORY: Final = 768 * 1024 * 1024  # bytes of address space, the interpreter's own included
_SECONDS: Final = 20  # of processor time


def limit() -> None:
    """Set the limits of this process; it cannot raise them again."""
    bounds = (
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_CPU, _SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    )
    for kind, most in bounds:
        _, hard = resource.getrlimit(kind)
        own = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (own, own))


def read(reader: Reader, content: bytes) -> Reading:
    """Read one file; whatever goes wrong in it is a sentence. A wrapped file is read too."""
    try:
        found = READERS[reader](content)
        wrapped = cda.inside(content) if found.inside else None
        if wrapped:
            found = _with_inside(found, wrapped)
    except MemoryError:
        return Reading(sentence="This file needs too much memory to be read. It can be saved.")
    except Exception:  # noqa: BLE001 - a parser in a child may fail in any way; the words say so
        return Reading(sentence=BROKEN)
    return found


def _with_inside(outer: Reading, content: bytes) -> Reading:
    """Return the reading of a document with the words of the one file in it."""
    kind = kind_of(content)
    if kind.reader in (Reader.NONE, Reader.CDA):
        return replace(outer, inside=kind.media_type)
    inner = READERS[kind.reader](content)
    return replace(
        outer,
        text="\n".join(filter(None, (outer.text, inner.text))),
        html=inner.html,
        inside=kind.media_type,
        sentence=inner.sentence,
        cut=inner.cut,
    )


def main() -> None:
    """Read standard input as the reader named on the command line."""
    limit()
    os.nice(10)  # pages and pulls go first
    content = sys.stdin.buffer.read()
    if sys.argv[1] == INSIDE:
        answer = base64.b64encode(cda.inside(content) or b"")
    elif sys.argv[1] == ENTRIES:
        answer = cda_entries.packed(content)
    else:
        answer = read(Reader(sys.argv[1]), content).packed()
    sys.stdout.buffer.write(answer)


if __name__ == "__main__":
    main()

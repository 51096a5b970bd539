"""Reading a file in a process of its own, which may die without anybody else noticing.

The one caller of `phr.papers.child`. A child that is too slow is ended; what came is a sentence.
"""

import base64
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec

from phr.errors import PhrError
from phr.papers.kinds import ENTRIES, INSIDE, Reader
from phr.papers.reading import BROKEN, MOST_HTML, MOST_TEXT, Reading, unpacked

PATIENCE: Final = 90.0  # seconds by the clock: on a busy machine 20 of the processor take long
LARGEST: Final = 25 * 1024 * 1024  # bytes; more is not kept as an attachment either
_MOST_ANSWER: Final = 8 * (MOST_TEXT + MOST_HTML)
_ROOT: Final = Path(__file__).parents[2]  # where the package `phr` lies
TOO_HARD: Final = "Reading this file took too long or too much memory. It can be saved."

_running: set[subprocess.Popen[bytes]] = set()
_stopped: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()
_room = threading.BoundedSemaphore(2)  # children at once: a small machine stays usable


class Stopped(PhrError):
    """The program is ending: nothing was learnt about the file."""

    sentence = "Homeport is stopping. Please try again in a minute."


def read(reader: Reader, content: bytes) -> Reading:
    """Return what a reader finds in a file. Raises Stopped when the program is ending.

    Whatever a file does to its reader ends as a sentence in the Reading.
    """
    if reader is Reader.NONE:
        return Reading()
    if len(content) > LARGEST:
        return Reading(sentence="This file is too large to be read here. It can be saved.")
    answer = _ask(reader.value, content)
    if answer is None:
        return Reading(sentence=TOO_HARD)
    try:
        return unpacked(answer)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return Reading(sentence=BROKEN)


def inside(content: bytes) -> bytes | None:
    """Return the one file that a C-CDA document wraps (CDA R2 §4.3.1.2), or None."""
    answer = _ask(INSIDE, content)
    return (base64.b64decode(answer) or None) if answer else None


def entries(content: bytes) -> list[bytes] | None:
    """Return what a C-CDA document says as FHIR resources; None where it could not be read.

    The first is the document itself, then its Patient, its entries, and Provenance.
    """
    answer = _ask(ENTRIES, content) if len(content) <= LARGEST else None
    if answer is None:
        return None
    try:
        return [bytes(one) for one in msgspec.json.decode(answer, type=list[msgspec.Raw])]
    except msgspec.DecodeError:
        return None


def stop_all() -> None:
    """End every child, because the program ends."""
    with _lock:
        for child in _running:
            child.kill()
        _stopped.update(_running)


def _ask(what: str, content: bytes) -> bytes | None:
    """Run one child; return its answer, or None when it reached a limit."""
    with _room:
        return _answer(what, content)


def _answer(what: str, content: bytes) -> bytes | None:
    child = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell, no input
        [sys.executable, "-X", "utf8", "-m", "phr.papers.child", what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=_ROOT,
        env={"PYTHONDONTWRITEBYTECODE": "1"},  # nothing of ours: no key, no setting
    )
    with _lock:
        _running.add(child)
    try:
        answer, _ = child.communicate(content, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return None
    finally:
        with _lock:
            _running.discard(child)
            stopped = child in _stopped
            _stopped.discard(child)
    if stopped:
        raise Stopped
    return answer if child.returncode == 0 and len(answer) <= _MOST_ANSWER else None

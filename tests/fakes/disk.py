"""A disk that fails at the n-th step, or that says afterwards what a power cut would have left.

SQLite asks it through a VFS of its own that passes everything on to the real one; what Python does
to files itself passes through the `os` functions it uses. So a sweep needs no root, no mount and
no preloaded library. Only files under `folder` are meant.
"""

import ctypes
import errno
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlcipher3 import _sqlite3

SQLITE_FULL, SQLITE_CANTOPEN, SQLITE_IOERR = 13, 14, 10
CREATE = 0x4  # SQLITE_OPEN_CREATE
SECTOR: Final = 512

_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))  # keeps the name
_DELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_BYTES = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)


class _Vfs(Structure):  # https://sqlite.org/c3ref/vfs.html
    _fields_ = (
        ("version", c_int), ("size", c_int), ("longest", c_int), ("next", c_void_p),
        ("name", c_char_p), ("data", c_void_p), ("open", c_void_p), ("delete", c_void_p),
        ("others", c_void_p * 14),
    )  # fmt: skip


class _Methods(Structure):  # https://sqlite.org/c3ref/io_methods.html
    _fields_ = (
        ("version", c_int), ("close", c_void_p), ("read", c_void_p), ("write", c_void_p),
        ("truncate", c_void_p), ("sync", c_void_p), ("others", c_void_p * 13),
    )  # fmt: skip


_library = ctypes.CDLL(_sqlite3.__file__)
_library.sqlite3_vfs_find.restype = POINTER(_Vfs)
_real: Any = _library.sqlite3_vfs_find(None)


@dataclass
class Failure:
    """What goes wrong: `number` EIO or ENOSPC at the `at`-th step, once or from then `on`.

    A step changes something; with `reading` the steps are SQLite's reads instead.
    """

    at: int
    number: int
    on: bool = False
    reading: bool = False


Event = tuple[Any, ...]


@dataclass
class Disk:
    """Counts every write, truncation, sync, creation, renaming and removal under `folder`."""

    folder: Path
    failure: Failure | None = None
    steps: int = 0
    reads: int = 0
    events: list[Event] = field(default_factory=list)
    recording: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._paths: dict[int, str] = {}
        self._kept: list[Any] = []
        self._tables: dict[int, _Methods] = {}
        self._before = _snapshot(self.folder)

    # ------------------------------------------------------------------ what happens

    def note(self, *event: Any) -> None:
        """Say something between the events of the disk, such as what was acknowledged."""
        with self._lock:
            self.events.append(event)

    def _concerns(self, path: str | None) -> bool:
        return path is not None and path.startswith(f"{self.folder}/")

    def _step(self, *, reading: bool = False) -> int:
        """Count a step; return the error number when it is to fail."""
        with self._lock:
            self.steps += not reading
            self.reads += reading
            count, failure = self.reads if reading else self.steps, self.failure
            if failure is None or failure.reading != reading or count < failure.at:
                return 0
            return 0 if count > failure.at and not failure.on else failure.number

    def _record(self, *event: Any) -> None:
        if self.recording:
            self.note(*event)

    # ------------------------------------------------------------------ SQLite's files

    def _open(self, vfs: int, name: int | None, file: int, flags: int, out: Any) -> int:
        path = os.fsdecode(ctypes.string_at(name)) if name else None
        fresh = self._concerns(path) and not Path(path or "").exists()
        if fresh and flags & CREATE and self._step():
            return SQLITE_CANTOPEN
        code: int = _OPEN(_real.contents.open)(vfs, name, file, flags, out)
        if code == 0 and self._concerns(path):
            assert path is not None
            with self._lock:
                self._paths[file] = path
            if fresh:
                self._record("create", path)
            table = c_void_p.from_address(file)
            if table.value:
                table.value = ctypes.addressof(self._table(table.value))
        return code

    def _table(self, real: int) -> _Methods:
        if real not in self._tables:
            methods = _Methods.from_buffer_copy(_Methods.from_address(real))
            for name, kind, act in (
                ("read", _BYTES, self._read),
                ("write", _BYTES, self._write),
                ("truncate", _TRUNCATE, self._truncate),
                ("sync", _SYNC, self._sync),
            ):
                callback = kind(_passing(kind(getattr(methods, name)), act))
                self._kept.append(callback)
                setattr(methods, name, ctypes.cast(callback, c_void_p).value)
            self._tables[real] = methods
        return self._tables[real]

    def _write(self, real: Callable[..., int], file: int, data: int, size: int, at: int) -> int:
        if problem := self._step():
            return SQLITE_FULL if problem == errno.ENOSPC else SQLITE_IOERR | 3 << 8
        code = real(file, data, size, at)
        if code == 0 and self.recording:
            self.note("write", self._paths[file], at, ctypes.string_at(data, size))
        return code

    def _read(self, real: Callable[..., int], file: int, data: int, size: int, at: int) -> int:
        if self._step(reading=True):
            return SQLITE_IOERR | 1 << 8
        return real(file, data, size, at)

    def _truncate(self, real: Callable[..., int], file: int, size: int) -> int:
        if self._step():
            return SQLITE_IOERR | 6 << 8
        code = real(file, size)
        self._record("truncate", self._paths[file], size)
        return code

    def _sync(self, real: Callable[..., int], file: int, flags: int) -> int:
        if self._step():
            return SQLITE_IOERR | 4 << 8
        code = real(file, flags)
        self._record("sync", self._paths[file])
        return code

    def _delete(self, vfs: int, name: bytes, sync: int) -> int:
        path = os.fsdecode(name)
        if self._concerns(path) and self._step():
            return SQLITE_IOERR | 10 << 8
        code: int = _DELETE(_real.contents.delete)(vfs, name, sync)
        if self._concerns(path):
            self._record("remove", path)
            if sync:
                self._record("sync", str(Path(path).parent))
        return code

    # ------------------------------------------------------------------ Python's files

    def _fail(self, path: str) -> None:
        if self._concerns(path) and (number := self._step()):
            raise OSError(number, os.strerror(number), path)

    def _os_open(self, real: Any, path: Any, flags: int, *more: Any, **named: Any) -> int:
        place = str(Path(path).absolute())
        making = flags & os.O_CREAT and not Path(place).exists()
        if making:
            self._fail(place)
        handle: int = real(path, flags, *more, **named)
        if making and self._concerns(place):
            self._record("create", place)
        return handle

    def _os_fsync(self, real: Any, handle: int) -> None:
        place = str(Path(f"/proc/self/fd/{handle}").readlink())
        self._fail(place)
        real(handle)
        if self.recording and self._concerns(f"{place}/"):
            if Path(place).is_file():
                self.note("stored", place, Path(place).read_bytes())
            else:
                self.note("sync", place)

    def _os_replace(self, real: Any, old: Any, new: Any, **named: Any) -> None:
        self._fail(str(Path(new).absolute()))
        real(old, new, **named)
        if self._concerns(str(Path(new).absolute())):
            self._record("rename", str(Path(old).absolute()), str(Path(new).absolute()))

    def _os_unlink(self, real: Any, path: Any, **named: Any) -> None:
        real(path, **named)
        if not named and self._concerns(str(Path(path).absolute())):
            self._record("remove", str(Path(path).absolute()))

    def _os_sendfile(self, real: Any, target: int, *more: Any) -> int:
        self._fail(str(Path(f"/proc/self/fd/{target}").readlink()))
        sent: int = real(target, *more)
        return sent

    # ------------------------------------------------------------------ in use

    @contextmanager
    def in_use(self) -> Iterator["Disk"]:
        """Be the disk of every file opened meanwhile; they have to be closed before the end."""
        mine = _Vfs.from_buffer_copy(_real.contents)
        opening, removing = _OPEN(self._open), _DELETE(self._delete)
        mine.name, mine.next = b"homeport-disk", None
        mine.open = ctypes.cast(opening, c_void_p).value
        mine.delete = ctypes.cast(removing, c_void_p).value
        self._kept += [mine, opening, removing]
        names = {"open": self._os_open, "fsync": self._os_fsync, "replace": self._os_replace,
                 "rename": self._os_replace, "unlink": self._os_unlink, "remove": self._os_unlink,
                 "sendfile": self._os_sendfile}  # fmt: skip
        _library.sqlite3_vfs_register(ctypes.byref(mine), 1)
        real = {name: getattr(os, name) for name in names}
        try:
            for name, act in names.items():
                setattr(os, name, _passing(real[name], act))
            yield self
        finally:
            for name, function in real.items():
                setattr(os, name, function)
            _library.sqlite3_vfs_unregister(ctypes.byref(mine))
            _library.sqlite3_vfs_register(_real, 1)

    # ------------------------------------------------------------------ a power cut

    def cut(self, upto: int, chance: random.Random, target: Path) -> list[Any]:
        """Make in `target` what a power cut before event `upto` leaves; return what was noted.

        What was synced is there. Of what was written since, any 512-byte sectors are; of names
        made, changed and removed since their folder was synced, a beginning is.
        """
        after = _Platter(self._before)
        noted = []
        for event in self.events[:upto]:
            if event[0] == "said":
                noted.append(event[1])
            else:
                after.happens(event)
        after.materialise(self.folder, target, chance)
        return noted


def _passing(real: Any, act: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **named: act(real, *args, **named)


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class _File:
    """What is surely on the disk, and what was asked for since."""

    sure: bytearray = field(default_factory=bytearray)
    since: list[Event] = field(default_factory=list)

    def settle(self) -> None:
        for event in self.since:
            self._apply(event, None)
        self.since.clear()

    def _apply(self, event: Event, chance: random.Random | None) -> None:
        if event[0] == "truncate":
            del self.sure[event[2] :]
            return
        at, data = event[2:4]
        self.sure.extend(bytes(max(0, at + len(data) - len(self.sure))))
        for begin in range(0, len(data), SECTOR if chance else len(data) or 1):
            piece = data[begin : begin + (SECTOR if chance else len(data))]
            if chance is None or chance.random() < 0.5:
                self.sure[at + begin : at + begin + len(piece)] = piece

    def torn(self, chance: random.Random) -> bytes:
        """What is there after the cut: the sure, and any part of the rest."""
        left = _File(bytearray(self.sure))
        mood = chance.choice((0.0, 0.5, 0.9, 1.0))
        for event in self.since:
            if chance.random() < mood:
                left._apply(event, None if chance.random() < 0.5 else chance)
        return bytes(left.sure)


class _Platter:
    """Files and names as they surely are, and the names as they would be."""

    def __init__(self, before: dict[str, bytes]) -> None:
        self.names = {path: _File(bytearray(content)) for path, content in before.items()}
        self.sure = dict(self.names)
        self.waiting: list[Event] = []

    def happens(self, event: Event) -> None:
        kind, path = event[0], event[1]
        if kind == "create":
            self._rename(("create", path, _File()))
        elif kind in ("rename", "remove"):
            self._rename(event)
        elif kind == "sync":
            self._sync(path)
        elif kind == "stored":  # Python's own file: what it holds when it is synced
            if path not in self.names:
                self._rename(("create", path, _File()))
            self.names[path].sure[:] = event[2]
            self._sync(path)
        elif path in self.names:
            self.names[path].since.append(event)

    def _rename(self, event: Event) -> None:
        _name(self.names, event)
        self.waiting.append(event)

    def _sync(self, path: str) -> None:
        if path not in self.names:
            self._sync_folder(path)
            return
        self.names[path].settle()
        new = any(event[:2] == ("create", path) for event in self.waiting)
        if new and path.endswith(("-wal", "-journal")):  # SQLite syncs the folder of a new journal
            self._sync_folder(str(Path(path).parent))

    def _sync_folder(self, folder: str) -> None:
        for event in [*self.waiting]:
            if str(Path(event[2] if event[0] == "rename" else event[1]).parent) == folder:
                _name(self.sure, event)
                self.waiting.remove(event)

    def materialise(self, folder: Path, target: Path, chance: random.Random) -> None:
        names = dict(self.sure)
        for event in self.waiting[: chance.randint(0, len(self.waiting))]:
            _name(names, event)
        for path, file in names.items():
            place = target / Path(path).relative_to(folder)
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.endswith("-shm"):  # memory, not data: rebuilt from the log
                place.write_bytes(file.torn(chance))
                place.chmod(0o600)


def _name(names: dict[str, _File], event: Event) -> None:
    if event[0] == "create":
        names[event[1]] = event[2]
    elif event[0] == "remove":
        names.pop(event[1], None)
    elif event[1] in names:
        names[event[2]] = names.pop(event[1])
    else:  # a folder was renamed
        for path in [path for path in names if path.startswith(f"{event[1]}/")]:
            names[event[2] + path.removeprefix(event[1])] = names.pop(path)

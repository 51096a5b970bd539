"""The control socket: how the command line reaches a running appliance. JSON lines, 0600.

Whoever may open the socket runs as the same person as the appliance, who could read its memory
too: no further secret is asked. What the commands do is in `phr.cli.commands`.
"""

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from phr.errors import Conflict, PhrError

log = logging.getLogger(__name__)

Item = Mapping[str, Any]
Dialogue = Generator[Item, Any, None]  # items out; in, what the caller says to an `Ask`
Run = Callable[[str, Mapping[str, Any]], Dialogue]
_MAX_LINE = 1 << 20  # a request is names, paths and a password
_HEADERS = 108 - 1  # longest path of a Unix socket (sun_path)


class Ask(dict[str, Any]):
    """An item after which the command waits until its caller sends something."""

    def __init__(self, item: Item, *, within: float) -> None:
        """Take the item, and the seconds after which a silent caller counts as gone."""
        super().__init__(item)
        self.within = within


class RemoteFailure(PhrError):
    """A command failed inside the running appliance; `exit_code` is what the shell gets."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        """Take the sentence for people and the exit code."""
        super().__init__(sentence)
        self.exit_code = exit_code


# ------------------------------------------------------------------ inside the appliance


class Control:
    """Listens on the control socket and runs commands, each caller in a thread of its own."""

    def __init__(self, path: Path, run: Run, exit_code: Callable[[PhrError], int]) -> None:
        """Bind the socket; a stale one of a killed process is replaced (we hold the data lock)."""
        self._run = run
        self._exit_code = exit_code
        self._path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            self._socket.bind(_short(path))
        finally:
            os.umask(mask)
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._listen, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; running commands end with their caller."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._answer, args=(caller,), daemon=True).start()

    def _answer(self, caller: socket.socket) -> None:
        # The caller may go away at any moment; the command's own transactions stand.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError), caller:
            lines = caller.makefile("rb", buffering=0)
            line = lines.readline(_MAX_LINE)
            if line:  # else it only looked whether somebody listens
                self._carry_out(caller, lines, line)

    def _carry_out(self, caller: socket.socket, lines: socket.SocketIO, line: bytes) -> None:
        try:
            asked = json.loads(line)
            # closed at once when the caller is gone: what it unlocked is sealed again
            with contextlib.closing(self._run(asked["command"], asked["arguments"])) as dialogue:
                _converse(caller, lines, dialogue)
            _send(caller, {"done": 0, "sentence": None})
        except PhrError as error:
            _send(caller, {"done": self._exit_code(error), "sentence": error.sentence})
        except (BrokenPipeError, ConnectionResetError):
            raise
        except Exception:
            log.exception("control.failed")
            _send(caller, {"done": 1, "sentence": PhrError.sentence})


def _converse(caller: socket.socket, lines: socket.SocketIO, dialogue: Dialogue) -> None:
    """Send each item as it comes. Raises ConnectionResetError when a question gets no answer."""
    answer = None
    with contextlib.suppress(StopIteration):
        while True:
            item = dialogue.send(answer)
            _send(caller, {"item": item, "asks": isinstance(item, Ask)})
            answer = _answer_of(caller, lines, item.within) if isinstance(item, Ask) else None


def _answer_of(caller: socket.socket, lines: socket.SocketIO, within: float) -> Any:
    caller.settimeout(within)
    try:
        line = lines.readline(_MAX_LINE)
    except TimeoutError as error:
        raise ConnectionResetError from error
    if not line:
        raise ConnectionResetError
    caller.settimeout(None)
    return json.loads(line)["answer"]


def _send(to: socket.socket, value: Item) -> None:
    to.sendall(json.dumps(value, default=str).encode() + b"\n")


def _short(path: Path) -> str:
    """Return a path short enough for a Unix socket: relative where the absolute one is not."""
    if len(os.fsencode(path)) <= _HEADERS:
        return str(path)
    relative = os.path.relpath(path)
    if len(os.fsencode(relative)) <= _HEADERS:
        return relative
    raise Conflict(f"The path of the control socket is too long for this system: {path}")


# ------------------------------------------------------------------ at the shell


def answers(path: Path) -> bool:
    """Tell whether an appliance listens at `path`. Raises Conflict when it is somebody else's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(_short(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except PermissionError as error:
            raise Conflict(f"No right to use {path}: run this as the owner of the data.") from error
        return True


def call(
    path: Path, command: str, arguments: Mapping[str, Any], *, patience: float | None = None
) -> Dialogue:
    """Run a command inside the appliance that listens at `path`; items come while it runs.

    After an `Ask`, what is sent to this generator is the answer. `patience` is how many seconds an
    item may take; None: as many as it needs. Raises RemoteFailure with the exit code when it failed
    there, OSError where nobody listens or patience is over.
    """
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller,
        caller.makefile("rb") as lines,
    ):
        caller.settimeout(patience)
        caller.connect(_short(path))
        with contextlib.suppress(ConnectionError):
            _send(caller, {"command": command, "arguments": arguments})
            for line in lines:
                answer = json.loads(line)
                if "item" in answer:
                    given = yield answer["item"]
                    if answer["asks"]:
                        _send(caller, {"answer": given})
                elif answer["done"]:
                    raise RemoteFailure(answer["sentence"], answer["done"])
                else:
                    return
    raise RemoteFailure("The appliance stopped before the command was done.", 1)

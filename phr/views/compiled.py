"""Templates as byte code, kept where Python keeps its own: in `__pycache__` beside them.

Compiling what the first page needs is a twelfth of a start. Where the package cannot be written
to (an image), templates are compiled anew at each start.
"""

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket, BytecodeCache


class Compiled(BytecodeCache):
    """The byte code of the templates in one folder; the source's hash says whether it fits."""

    def __init__(self, folder: Path) -> None:
        """Keep byte code for the templates in `folder`."""
        self._folder = folder / "__pycache__"

    def load_bytecode(self, bucket: Bucket) -> None:
        """Fill a bucket, if there is something for it."""
        with suppress(OSError), self._path(bucket).open("rb") as file:
            bucket.load_bytecode(file)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep what was compiled; a folder that cannot be written to is no error."""
        path = self._path(bucket)
        part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            with part.open("wb") as file:
                bucket.write_bytecode(file)
            part.replace(path)

    def _path(self, bucket: Bucket) -> Path:
        """Name a file by all that changes what a template is compiled to, but its source."""
        made_with = bucket.environment
        ways = f"{made_with.trim_blocks:d}{made_with.lstrip_blocks:d}{bool(made_with.autoescape):d}"
        by = f"{sys.implementation.cache_tag}-jinja-{jinja2.__version__}-{ways}"
        return self._folder / f"{bucket.key}.{by}"

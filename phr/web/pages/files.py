"""Files: bring one in, see what became of it, and take the whole record out."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from litestar import Response
from litestar.response import Stream

from phr import clock, pull
from phr.errors import InvalidInput, NotFound
from phr.sharing import gate, package
from phr.store import connections
from phr.web.forms import Upload
from phr.web.routing import Access, Form, Visit, action, page

MOST = 256 << 20  # bytes of one file: it waits in memory, never as readable text on the disk
TOO_LARGE = (
    "This file is larger than 256 MB. Please use `phr import` on the machine itself, or split the "
    "export at the portal. Nothing was kept of it."
)


@page("/p/{patient_id:str}/files", access=Access.MEMBER)
def show(visit: Visit) -> Response[Any]:
    """Offer to bring a file or to take the record out, and list the files brought before."""
    return _draw(visit)


def _draw(visit: Visit, sentence: str | None = None) -> Response[Any]:
    with visit.vault.read() as session:
        brought = []
        for row in connections.listed(session, kind=connections.UPLOAD):
            last = connections.last_pull(session, row.id)
            if last is not None:
                brought.append((row, last, connections.lines(session, last.id)))
    return visit.render(
        "pages/files.html",
        status=422 if sentence else 200,
        brought=brought[::-1],
        taken=visit.kept("taken") if "taken" in visit.query or sentence else None,
        sentence=sentence,
    )


@action("/p/{patient_id:str}/files", access=Access.PROXY, uploads=True)
def bring(visit: Visit, form: Form) -> Response[Any]:
    """Take files in; each is kept, known already, or set aside with the reason, entry by entry."""
    taken = []
    try:
        for upload in form.uploads():
            if upload.filename:
                taken += [_take(visit, upload)]  # one by one: what came before an error counts
    except InvalidInput as problem:
        visit.put_down("taken", taken)
        return _draw(visit, problem.sentence)
    if not taken:
        visit.forget("taken")  # what became of the files before is not told again
        return _draw(visit, "Please choose a file first.")
    visit.put_down("taken", taken)
    return visit.redirect(f"{_base(visit)}?taken=1")


def _base(visit: Visit) -> str:
    if visit.patient is None:
        raise NotFound
    return f"/p/{visit.patient.id}/files"


def _take(visit: Visit, upload: Upload) -> pull.Taken:
    """Hold one file in memory while it is read; nothing readable reaches the disk."""
    handle = os.memfd_create("upload", os.MFD_CLOEXEC)
    try:
        size = 0
        for chunk in upload.chunks:
            size += len(chunk)
            if size > MOST:
                raise InvalidInput(TOO_LARGE)
            _write_whole(handle, chunk)
        place = Path(f"/proc/self/fd/{handle}")
        return pull.take_file(
            visit.vault, upload.filename, place, actor=visit.actor, now=clock.now()
        )
    finally:
        os.close(handle)


def _write_whole(handle: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(handle, rest) :]


@action("/p/{patient_id:str}/files/export", access=Access.PROXY)
def export(visit: Visit) -> Stream:
    """Give the whole record as one zip of the received bytes; needs the password just before."""
    visit.require_step_up()
    owned = gate.owner_export(visit.vault, visit.actor, form="zip")
    name = f"homeport-record-{clock.now():%Y-%m-%d}.zip"
    return Stream(
        _pieces(package.export(owned, now=clock.now())),
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _pieces(pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield from pieces


ROUTES = [show, bring, export]

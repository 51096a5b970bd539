"""The list of hospitals, for who runs this Homeport: its origin, a newer one, what moved in it.

What is checked and kept is `phr.catalogue`; searching it is `phr.web.pages.find`.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litestar import Response

from phr import clock, ids
from phr.errors import InvalidInput, TrustError
from phr.web.forms import Upload
from phr.web.routing import Access, Form, Visit, action, slow_page

if TYPE_CHECKING:
    from phr.catalogue import Kept, Moved, Standing

HERE = "/admin/catalogue"
MOST = 80 << 20  # bytes of a packed snapshot: more than any reader takes


@slow_page(HERE, access=Access.ADMINISTRATOR)
def show(visit: Visit) -> Response[Any]:
    """Show what the list is made of, and what waits for somebody to agree."""
    return _draw(visit)


def _draw(visit: Visit, sentence: str | None = None) -> Response[Any]:
    kept = visit.appliance.catalogue
    standing = kept.standing()
    return visit.render(
        "pages/admin_catalogue.html",
        status=422 if sentence else 200,
        standing=standing,
        waiting=_waiting(standing),
        lighthouses=kept.lighthouses,
        taken=visit.kept("catalogue") if "taken" in visit.query else None,
        sentence=sentence,
    )


@dataclass(frozen=True, slots=True)
class Waiting:
    """The addresses of one endpoint that moved; `mark` stands for exactly what is shown."""

    kept: "Kept"
    endpoint: str
    moves: tuple["Moved", ...]

    @property
    def mark(self) -> str:
        """What the answer must name."""
        shown = [self.kept.name, self.endpoint, *(f"{one.field} {one.new}" for one in self.moves)]
        return ids.fingerprint("\n".join(shown)).hex()


def _waiting(standing: "Standing") -> list[Waiting]:
    found: dict[tuple[str, str], Waiting] = {}
    for kept in standing.kept:
        for move in kept.held:
            known = found.get((kept.name, move.endpoint))
            moves = (*(known.moves if known else ()), move)
            found[kept.name, move.endpoint] = Waiting(kept, move.endpoint, moves)
    return list(found.values())


@action(HERE, access=Access.ADMINISTRATOR, uploads=True)
def bring(visit: Visit, form: Form) -> Response[Any]:
    """Take a packed snapshot in; where it is refused, say why, and keep what was there."""
    try:
        for upload in form.uploads():
            if upload.filename:
                visit.put_down("catalogue", _take(visit, upload))
                return visit.redirect(f"{HERE}?taken=1")
    except (InvalidInput, TrustError) as problem:
        return _draw(visit, f"Refused, nothing was changed. {problem.sentence}")
    return _draw(visit, "Please choose a file first.")


def _take(visit: Visit, upload: Upload) -> dict[str, Any]:
    kept = visit.appliance.catalogue
    before = {one.name: one for one in kept.standing().kept}
    with tempfile.TemporaryDirectory(dir=visit.appliance.settings.data) as folder:
        path = Path(folder) / "snapshot.zip"
        size = 0
        with path.open("wb") as file:
            for chunk in upload.chunks:
                size += len(chunk)
                if size > MOST:
                    raise InvalidInput("The file is larger than a list of hospitals can be.")
                file.write(chunk)
        now = kept.apply(path, clock.now())
    return {"now": now, "before": before.get(now.name)}


@action(HERE + "/confirm", access=Access.ADMINISTRATOR)
def confirm(visit: Visit, form: Form) -> Response[Any]:
    """Take over a sign-in address that moved to another site, if it still is the one shown."""
    kept = visit.appliance.catalogue
    chosen = [one for one in _waiting(kept.standing()) if one.mark == form.get("mark")]
    if not chosen:
        return _draw(visit, "This is not what waits any more. Please look again.")
    visit.require_step_up()
    kept.confirm(chosen[0].kept.name, chosen[0].endpoint)
    return visit.redirect(HERE, flash="The new address is in use for new sign-ins.")


ROUTES = [show, bring, confirm]

"""How every page is drawn: the templates, the static files and the addresses written into both.

Static files are read once; their content gives the version in their path, so that browsers may
keep them for ever. Nothing here knows who is asking.
"""

import gzip
import hashlib
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from phr import clock
from phr.chart.plain import visible
from phr.store.accounts import PatientView
from phr.views.compiled import Compiled

WEB = Path(__file__).parent
VIEWS = WEB.parent / "views"
STYLE_SHEETS = (
    "tokens.css",
    "homeport.css",
    "record.css",
    "forms.css",
    "connections.css",
    "share.css",
    "card.css",
)
ALL_SHEETS = "all.css"  # the sheets in their order as one file: one request instead of seven
HTMX = "vendor/htmx.min.js"  # put there by `make assets`; every page works without it
SCRIPTS = ("app.js", "stay.js")
WORTH_PACKING = 1000  # bytes
_FIELD = Markup('<input type="hidden" name="csrf" value="\0token\0">')  # ours
_PLACE = "\0token\0"  # of the form token in what is kept; no text that is drawn can hold it


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A static file in memory, plain and gzipped (None where that gains nothing)."""

    body: bytes
    packed: bytes | None
    media_type: str


def _static_file(name: str, body: bytes) -> StaticFile:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    text = kind.startswith("text/") or kind in {"application/javascript", "image/svg+xml"}
    packed = gzip.compress(body, 9, mtime=0) if text and len(body) > WORTH_PACKING else None
    return StaticFile(body, packed, f"{kind}; charset=utf-8" if text else kind)


def read_static(folder: Path = WEB / "static") -> dict[str, StaticFile]:
    """Return every static file by its name below `folder`, and the sheets as one file."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
    found[ALL_SHEETS] = b"\n".join(found[name] for name in STYLE_SHEETS if name in found)
    return {name: _static_file(name, body) for name, body in found.items()}


def _version(files: Mapping[str, StaticFile]) -> str:
    state = hashlib.sha256()
    for name, file in sorted(files.items()):
        state.update(name.encode() + b"\0" + file.body)
    return state.hexdigest()[:16]


@cache
def look_at(base: str) -> "Look":
    """Return the look of an application below `base`; files are read and compiled only once."""
    return Look(base)


class Look:
    """Templates, static files and addresses of one application; `base` is its sub-path."""

    def __init__(self, base: str) -> None:
        """Read templates and static files; `base` is empty or such as `/phr`."""
        self.base = base
        self.files = read_static()
        self.version = _version(self.files)
        self.environment = Environment(
            loader=ChoiceLoader(
                [
                    FileSystemLoader(WEB / "templates"),
                    PrefixLoader({"views": FileSystemLoader(VIEWS / "templates")}),
                ]
            ),
            autoescape=True,
            finalize=visible,
            undefined=StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
            bytecode_cache=Compiled(WEB / "templates"),
        )
        self.environment.filters.update(day=clock.day_here, moment=clock.minute_here)
        scripts = [self.static(name) for name in (HTMX, *SCRIPTS) if name in self.files]
        self.environment.globals.update(
            url=self.url,
            static=self.static,
            scripts=scripts,
            sheet=self.static(ALL_SHEETS),
            nav=self.nav,
            top=self.top,
            filters=self.filters,
        )
        self._nav = lru_cache(maxsize=256)(self._draw_nav)
        self._filters = lru_cache(maxsize=64)(self._draw_filters)
        self._top = lru_cache(maxsize=64)(self._draw_top)

    def url(self, path: str) -> str:
        """Return the address of an own path, below the sub-path."""
        return self.base + path

    def static(self, name: str) -> str:
        """Return the address of a static file, its version in the path."""
        return f"{self.base}/static/{self.version}/{name}"

    def nav(
        self, patient_id: str, path: str, administrator: bool, waits: tuple[int, int] = (0, 0)
    ) -> Markup:
        """Return the navigation of a record (of the household, without one), marked for `path`.

        It is the same on every page of a place: a third of the layout's time, so it is kept.
        `waits` is how many arrivals are in the inbox, and how many proposals of apps there are.
        """
        base = f"/p/{patient_id}" if patient_id else ""
        inside = path == base or path.startswith(base + "/")
        place, more, _ = path[len(base) + 1 :].partition("/") if inside else ("-", "", "")
        return self._nav(patient_id, place, not more, administrator, waits)

    def _draw_nav(
        self,
        patient_id: str,
        place: str,
        exact: bool,
        administrator: bool,
        waits: tuple[int, int],
    ) -> Markup:
        given = {
            "patient_id": patient_id,
            "base": f"/p/{patient_id}" if patient_id else "",
            "place": place,
            "exact": exact,
            "administrator": administrator,
            "waiting": waits[0],
            "unanswered": waits[1],
        }
        return Markup(self.draw("nav.html", given))  # noqa: S704 (autoescaped)

    def top(
        self,
        patient: PatientView | None,
        people: Sequence[PatientView],
        at_home: bool,
        account: tuple[str, bool] | None,
        token: str,
    ) -> Markup:
        """Return the band on top with the person switcher: one for all pages of a person.

        `account` is who is signed in: the name, and whether an administrator. Only the form
        token is new each time.
        """
        drawn = self._top(patient, tuple(people), at_home, account)
        return Markup(drawn.replace(_PLACE, token))  # noqa: S704 (autoescaped; the token is ours)

    def _draw_top(
        self,
        patient: PatientView | None,
        people: tuple[PatientView, ...],
        at_home: bool,
        account: tuple[str, bool] | None,
    ) -> str:
        name, administrator = account or ("", False)
        given = {
            "patient": patient,
            "people": people,
            "at_home": at_home,
            "signed_in": account is not None,
            "account_name": name,
            "administrator": administrator,
            "csrf_field": lambda: _FIELD,
        }
        return self.draw("top.html", given)

    def filters(self, tabs: Sequence[tuple[str, str, bool]]) -> Markup:
        """Return links to the ways of looking at a section: (address, words, whether current)."""
        return self._filters(tuple(tabs))

    def _draw_filters(self, tabs: tuple[tuple[str, str, bool], ...]) -> Markup:
        return Markup(self.draw("filters.html", {"tabs": tabs}))  # noqa: S704 (autoescaped)

    def draw(self, template: str, context: Mapping[str, Any], block: str | None = None) -> str:
        """Return a template as HTML, or only one of its blocks (for htmx)."""
        found = self.environment.get_template(template)
        if block is None:
            return found.render(context)
        return "".join(found.blocks[block](found.new_context(dict(context))))

"""The recovery kit on screen: shown once, printed on one page, two of its groups asked back.

The code waits in memory until it is confirmed; it is never stored.
"""

from dataclasses import dataclass
from typing import Any

from litestar import Response
from markupsafe import Markup

from phr import clock, ids
from phr.store import accounts
from phr.web.routing import Form, Visit

ALIKE = str.maketrans("OIL", "011")  # the code has no O, I or L
GONE = "This recovery kit was not confirmed in time. Please make a new one."
WRONG = "Group {} is not the same as on your kit. Please look again."


@dataclass(frozen=True, slots=True)
class Kit:
    """A kit that waits on `page` to be confirmed; `asked` are two group numbers from 1."""

    code: str
    asked: tuple[int, int]
    page: str

    @property
    def groups(self) -> list[str]:
        """The groups of the code, in order."""
        return self.code.replace("-", " ").split()


def offer(visit: Visit, password: str, page: str) -> None:
    """Make a new kit for the account signed in; an older one no longer works."""
    appliance = visit.appliance
    code = accounts.make_kit(appliance.house, appliance.vaults, visit.account_id, password)
    count = len(code.replace("-", " ").split())
    visit.put_down("kit", Kit(code, _two_of(count), page))


def _two_of(count: int) -> tuple[int, int]:
    """Return two different group numbers from 1 to `count`, by chance."""
    first, second = ids.random_bytes(2)
    one = first % count
    other = (one + 1 + second % (count - 1)) % count
    return min(one, other) + 1, max(one, other) + 1


def show(
    visit: Visit, *, target: str, step: str = "", sentence: str | None = None
) -> Response[Any]:
    """Draw the kit that waits; without one lead to the account page to make it anew."""
    kit: Kit | None = visit.kept("kit")
    if kit is None:
        return visit.redirect("/account", flash=GONE)
    return visit.render(
        "pages/kit.html",
        status=422 if sentence else 200,
        kit=kit,
        step=step,
        wizard=bool(step),
        target=target,
        sentence=sentence,
        today=clock.now(),
        address=visit.appliance.settings.home_url,
        qr=_qr(kit.code),
    )


def confirm(visit: Visit, form: Form) -> str | None:
    """Compare the two groups typed back; return a sentence when they do not fit."""
    kit: Kit | None = visit.kept("kit")
    if kit is None:
        return GONE
    for number in kit.asked:
        typed = "".join(form.get(f"group{number}").upper().translate(ALIKE).split())
        if not ids.same(typed, kit.groups[number - 1]):
            return WRONG.format(number)
    accounts.confirm_kit(visit.appliance.house, visit.account_id)
    visit.forget("kit")
    return None


def qr_svg(text: str, title: str) -> Markup:
    """Return a QR code as inline SVG with a title; its colours are the style sheet's."""
    import segno  # noqa: PLC0415 - drawn once in a year, loaded with the first pages

    return Markup(  # noqa: S704 - made by segno from our own text, which it escapes
        segno.make(text, error="m").svg_inline(
            scale=4, border=2, title=title, svgclass="qr", lineclass="qr-line", omitsize=True
        )
    )


def _qr(code: str) -> Markup:
    return qr_svg(code, "The recovery code as a QR code")

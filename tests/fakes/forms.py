"""Reading and sending the forms of a web page that somebody else wrote, without a browser."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

import httpx


@dataclass
class Form:
    """One form as it stands on a page: where it goes and what its fields hold."""

    action: str = ""
    method: str = "get"
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(found.get("action", ""), found.get("method", "get").lower()))
            self._open = True
        elif tag == "a":
            self.links.append(found.get("href", ""))
        elif self._open and tag == "button" and "name" in found:
            self.forms[-1].buttons.append((found["name"], found.get("value", "")))
        elif self._open and tag in {"input", "textarea"} and "name" in found:
            self.forms[-1].fields[found["name"]] = found.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = False


def _read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    return reader


def forms(html: str) -> list[Form]:
    """Return every form of a page."""
    return _read(html).forms


def links(html: str) -> list[str]:
    """Return where the links of a page lead."""
    return _read(html).links


def send(client: httpx.Client, page: httpx.Response, form: Form, **typed: str) -> httpx.Response:
    """Send a form of `page` with what is typed into it."""
    return client.request(form.method, page.url.join(form.action), data=form.fields | typed)

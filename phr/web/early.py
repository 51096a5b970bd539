"""What answers while the rest of an application is still being loaded.

A start loads what the first pages need. The rest follows behind them, or at once for whoever asks
for it: nobody is told that a page which is only not loaded yet does not exist.
"""

import asyncio
import threading
from collections.abc import Callable

from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.types import Receive, Scope, Send

from phr.web import always
from phr.web.application import Application
from phr.web.pages import home, setup, signin, timeline

# Rows of the route table (`phr.web.app`) that are loaded first; none of their paths may also fit
# an address that another row answers (held by a test).
FIRST_PAGES: list[HTTPRouteHandler] = [
    *always.ROUTES,
    *setup.ROUTES,
    *signin.ROUTES,
    *home.ROUTES,
    *timeline.ROUTES,
]
FIRST_DOORS: list[HTTPRouteHandler] = always.ROUTES


class Early:
    """An application that is there before all of its routes are; `load` gives the whole one."""

    def __init__(self, first: Application, load: Callable[[], Application]) -> None:
        """Take what answers at once; it must let in by the same doorkeeper as the whole."""
        self._first = first
        self._load = load
        self._loading = threading.Lock()
        self._whole: Application | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as the whole application would (ASGI)."""
        app = self._whole or (self._first if self.is_first(scope) else None)
        if app is None:
            app = await asyncio.to_thread(self.whole)
        await app(scope, receive, send)

    def is_first(self, scope: Scope) -> bool:
        """Tell whether a route that is there already answers this request."""
        path = self._first.below_base(scope["path"])
        try:
            self._first.asgi_router.handle_routing(path=path, method=scope.get("method"))
        except HTTPException:  # no such path, or not by this method
            return False
        return True

    def whole(self) -> Application:
        """Return the whole application; the first call loads it, the others wait for that."""
        with self._loading:
            if self._whole is None:
                self._whole = self._load()
                self._first = self._whole  # nobody asks the first rows any more: half a megabyte
            return self._whole

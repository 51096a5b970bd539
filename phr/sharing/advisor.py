"""Somebody's opinion about a server before it is trusted: off unless an address is configured.

It is told which server asks (address, or thumbprint of its key) and nothing about any patient. It
can only take away: without its yes no server is named and no token is given.
"""

import json
from typing import Final

from phr import jwt
from phr.errors import InvalidInput, NetError
from phr.http import Http
from phr.sharing import servers
from phr.sharing.clients import App

NO: Final = "The adviser that this Homeport asks does not vouch for this server."
SILENT: Final = "The adviser that this Homeport asks about servers did not answer."


def vouch(http: Http, advisor: str | None, server: str) -> None:
    """Ask about a server by what it calls itself. Raises InvalidInput unless the answer is yes.

    POST `client=…`; yes is 200 with the JSON object {"trusted": true}.
    """
    if not advisor:
        return
    try:
        answer = http.post(advisor, {"client": server}, limits=servers.QUICK)
        said = json.loads(answer.body) if answer.status == 200 else None
    except (NetError, ValueError, RecursionError):
        raise InvalidInput(SILENT) from None
    if not isinstance(said, dict) or said.get("trusted") is not True:
        raise InvalidInput(NO)


def name_of(app: App) -> str:
    """Return what a known server is called: the address of its keys, or its key's thumbprint."""
    if app.says.jwks_uri is not None:
        return app.says.jwks_uri.removesuffix(servers.KEYS)
    keys = (app.says.jwks or {}).get("keys") or [{}]
    return servers.THUMBPRINT + str(jwt.thumbprint(keys[0]))

"""`phr check --alive`: the health check of a container image, which has no curl.

The appliance of this data folder is asked over its control socket and asks its own listener: a port
alone does not tell whose it is.
"""

import http.client
import ipaddress
import ssl

from phr.cli import control
from phr.errors import Unreachable
from phr.settings import Settings

_SECONDS = 4
_LISTENER_SECONDS = 3  # less, so that its sentence arrives


def ask(settings: Settings) -> None:
    """Ask the appliance of the data folder; raise an error unless it runs and its pages answer."""
    try:
        for _ in control.call(settings.control_path, "check.alive", {}, patience=_SECONDS):
            pass
    except OSError as error:
        raise Unreachable(f"No Homeport answers for {settings.data.absolute()}.") from error


def ask_listener(settings: Settings) -> None:
    """Ask this machine's own listener for /healthz; raise Unreachable unless it answers 200."""
    host = settings.host
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    connection = _connection(settings, host)
    try:
        connection.request(
            "GET", settings.home_path + "/healthz", headers={"Host": _name(settings)}
        )
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable("No Homeport answers here.") from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise Unreachable(f"Homeport answers with status {status}.")


def _connection(settings: Settings, host: str) -> http.client.HTTPConnection:
    if settings.tls != "own":
        return http.client.HTTPConnection(host, settings.port, timeout=_LISTENER_SECONDS)
    # Our own listener on this machine: nothing secret is sent, nothing is believed but "alive".
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(
        host, settings.port, timeout=_LISTENER_SECONDS, context=context
    )


def _name(settings: Settings) -> str:
    return settings.home_origin.split("://", 1)[1]

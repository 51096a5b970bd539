"""Listens at an address and serves an application there, or says in a sentence why it cannot."""

import errno
import socket
from contextlib import suppress
from typing import Any

import click


def bound(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets, one for each address of a host. Raises ClickException.

    The protocol is named: asyncio switches Nagle off only then, and an answer in two pieces would
    wait 40 ms for the reader's delayed acknowledgement.
    """
    where = f"Cannot listen on {host} port {port}"
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError):
        raise click.ClickException(f"{where}: no address of this machine is called that.") from None
    made: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            made.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            one.listen(2048)
    except OSError as error:
        for one in made:
            one.close()
        raise click.ClickException(f"{where}: {_why(error)}") from None
    return made


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use. Is it running already? Another port can be given with --port."
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "that needs rights which this account does not have. Ports from 1024 on do not."
    return f"{(error.strerror or 'it is refused').lower()}."


def serve(app: Any, host: str, port: int, **options: Any) -> None:
    """Serve an application until SIGTERM or SIGINT. Raises ClickException where it cannot listen.

    `options` are uvicorn's. There is no access log and no header that names the server.
    """
    import uvicorn  # noqa: PLC0415 - only a process of its own needs a server

    sockets = bound(host, port)
    config = uvicorn.Config(app, access_log=False, server_header=False, **options)
    with suppress(KeyboardInterrupt):  # it has stopped in order by then
        uvicorn.Server(config).run(sockets=sockets)

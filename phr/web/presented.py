"""What a request shows to the gate at a public door: a link's cookie, or a program's token.

What that opens is the gate's to say; here is only where it stands and whose record it leads to.
"""

from phr.errors import NotFound, TokenRefused
from phr.sharing import handles
from phr.sharing.gate import Presented
from phr.sharing.handles import Bearer
from phr.store.vault import Vault
from phr.web.routing import Visit


def vault_of(visit: Visit, routing_id: str) -> Vault:
    """Return the vault that a routing id leads to. Raises NotFound, or Sealed."""
    patient_id = handles.patient_of(visit.appliance.house, routing_id)
    if patient_id is None:
        raise NotFound
    return visit.appliance.vault(patient_id)


def cookie_of(routing_id: str) -> str:
    """Return the name of the cookie that binds a browser to a link or an emergency card."""
    return f"s-{routing_id}"


def by_cookie(visit: Visit, routing_id: str) -> Presented:
    """Return what this browser shows for a link: its cookie."""
    return Presented(routing_id, visit.cookie(cookie_of(routing_id)))


def by_token(visit: Visit) -> tuple[Vault, str, Bearer]:
    """Return whose record a token leads to, the grant, and the token. Raises TokenRefused."""
    scheme, _, text = visit.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise TokenRefused(absent=not scheme)
    bearer = handles.bearer_of(text.strip())
    route = None if bearer is None else handles.route_of(visit.appliance.house, bearer)
    if bearer is None or route is None:
        raise TokenRefused
    patient_id, grant_id = route
    return visit.appliance.vault(patient_id), grant_id, bearer

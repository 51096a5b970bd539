"""What a program finds before it asks: where to authorize, what is offered, which keys sign.

Only configuration and constants; nothing here depends on whose records there are.
"""

import json
from collections.abc import Mapping
from typing import Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr import jwt
from phr.sharing import addresses, asking, clients, proof, servers, tickets
from phr.web.routing import Access, Visit, page, slow_page

MAY_BE_KEPT = {"Cache-Control": "public, max-age=300"}
CAPABILITIES = (  # SMART App Launch 2.2 §8.1: what is true of this server, and no more
    "launch-standalone",
    "launch-ehr",
    "authorize-post",
    "client-public",
    "client-confidential-asymmetric",
    "context-standalone-patient",
    "context-ehr-patient",
    "context-banner",
    "permission-offline",
    "permission-patient",
    "permission-user",
    "permission-v1",
    "permission-v2",
    "sso-openid-connect",
)
SCOPES = ("openid", "fhirUser", "launch", "launch/patient", "offline_access",
          "patient/*.rs", "patient/*.read", "user/*.rs", "system/*.rs",
          *asking.ERRANDS)  # fmt: skip


def _configuration(visit: Visit) -> Mapping[str, Any]:
    here = addresses.of(visit.appliance.settings)
    base = here.public_url
    return {
        "issuer": base,
        "jwks_uri": base + addresses.KEYS,
        "authorization_endpoint": base + addresses.AUTHORIZE,
        "token_endpoint": here.token,
        "registration_endpoint": base + addresses.REGISTER,
        "management_endpoint": f"{here.home_url}/apps",
        "introspection_endpoint": base + addresses.INTROSPECT,
        "revocation_endpoint": base + addresses.REVOKE,
        "token_endpoint_auth_methods_supported": clients.METHODS,
        "token_endpoint_auth_signing_alg_values_supported": jwt.SIGNING_ALGORITHMS,
        "grant_types_supported": (*clients.GRANT_TYPES, proof.BEARER, tickets.EXCHANGE),
        "smart_permission_ticket_types_supported": tickets.TYPES,
        "response_types_supported": ["code"],
        "scopes_supported": SCOPES,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "capabilities": CAPABILITIES,
    }


@page("/fhir/.well-known/smart-configuration", access=Access.ANYONE, always=True)
def smart(visit: Visit) -> Response[bytes]:
    """Say what SMART App Launch 2.2 §8 asks of a FHIR server, as JSON whatever was accepted."""
    brand = f"{addresses.of(visit.appliance.settings).fhir}/.well-known/brands.json"
    return _kept(visit, {**_configuration(visit), "user_access_brand_bundle": brand})


@page(
    ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"],
    access=Access.ANYONE,
    always=True,
)
def issuer(visit: Visit) -> Response[bytes]:
    """Say the same for OpenID Connect Discovery 1.0 §3 and RFC 8414."""
    more = {
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "nonce", "fhirUser"],
    }
    return _kept(visit, {**_configuration(visit), **more})


@slow_page(addresses.KEYS, access=Access.ANYONE, always=True)
def keys(visit: Visit) -> Response[bytes]:
    """Publish the key that signs who signed in (RFC 7517 §5)."""
    from phr.sharing import authorization  # noqa: PLC0415 - most boxes never see an app

    return _kept(visit, authorization.published_keys(visit.appliance.house))


@slow_page(servers.KEYS, access=Access.ANYONE, always=True)
def own_keys(visit: Visit) -> Response[bytes]:
    """Publish the key by which other servers know this one, where they look for it."""
    return _kept(visit, servers.own_keys(visit.appliance.house))


@page("/fhir/.well-known/brands.json", access=Access.ANYONE, always=True)
def brands(visit: Visit) -> Response[bytes]:
    """Name this server for catalogues (SMART User-access Brands, §8.2): nobody's name is in it."""
    base = addresses.of(visit.appliance.settings).fhir
    organization = {
        "resourceType": "Organization",
        "id": "home",
        "active": True,
        "name": "A personal health record at home (Homeport)",
        "endpoint": [{"reference": "Endpoint/fhir"}],
    }
    endpoint = {
        "resourceType": "Endpoint",
        "id": "fhir",
        "status": "active",
        "connectionType": {
            "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
            "code": "hl7-fhir-rest",
        },
        "name": "FHIR API of this record",
        "payloadType": [{"text": "FHIR R4"}],
        "address": base,
    }
    entries = [
        {"fullUrl": f"{base}/{each['resourceType']}/{each['id']}", "resource": each}
        for each in (organization, endpoint)
    ]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    return _kept(visit, bundle, "application/fhir+json")


def _kept(visit: Visit, body: Mapping[str, Any], kind: str = "application/json") -> Response[bytes]:
    visit.set_cookies.clear()
    return Response(json.dumps(body).encode(), media_type=kind, headers=dict(MAY_BE_KEPT))


ROUTES: list[HTTPRouteHandler] = [smart, issuer, keys, own_keys, brands]

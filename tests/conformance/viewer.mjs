// A stranger's viewer of SMART Health Links and Health Cards: kill-the-clipboard (npm). It takes one
// JSON line after the other from standard input and says what came of each.
import { createInterface } from 'node:readline'
import { SHCIssuer, SHCReader, SHL, SHLManifestBuilder, SHLViewer } from 'kill-the-clipboard'

const say = value => console.log(JSON.stringify(value))

const open = async ({ link, passcode, most }) => {
  const viewer = new SHLViewer({ shlinkURI: link })
  const { manifest, fhirResources } = await viewer.resolveSHL({
    recipient: 'A stranger in a test',
    ...(passcode && { passcode }),
    ...(most !== undefined && { embeddedLengthMax: most }),
  })
  return {
    flag: viewer.shl.flag ?? '',
    apart: manifest.files.filter(file => file.location).length,
    types: fhirResources.map(one => one.type ?? one.resourceType),
    first: fhirResources[0].entry.map(each => each.resource.resourceType),
  }
}

// What others put behind a link: two files, one of them zipped, and a Health Card.
const pack = async ({ pack, at, jws }) => {
  const shl = SHL.generate({ baseManifestURL: at, manifestPath: 'm', flag: 'P' })
  const files = []
  const builder = new SHLManifestBuilder({
    shl,
    uploadFile: async content => `${files.push(content) - 1}`,
    getFileURL: async path => `${at}/f${path}`,
    loadFile: async path => files[path],
  })
  await builder.addFHIRResource({ content: pack, enableCompression: false })
  await builder.addFHIRResource({ content: pack, enableCompression: true })
  await builder.addHealthCard({ shc: jws })
  const manifest = await builder.buildManifest({ embeddedLengthMax: 100 })
  return { link: shl.toURI(), url: shl.url, files, manifest }
}

const issue = async ({ issue, issuer, key }) => {
  const { d: _, ...publicKey } = key
  const maker = new SHCIssuer({ issuer, privateKey: key, publicKey })
  const card = await maker.issue(issue, { rid: 'r1' })
  return { jws: card.asJWS(), qr: card.asQRNumeric()[0] }
}

// The keys are looked up at the issuer's address.
const read = async ({ file, qr }) => {
  const reader = new SHCReader({})
  const card = file ? await reader.fromFileContent(file) : await reader.fromQRNumeric(qr)
  return { types: (await card.asBundle()).entry.map(each => each.resource.resourceType) }
}

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line)
  try {
    const how = asked.link ? open : asked.issue ? issue : asked.pack ? pack : read
    say(await how(asked))
  } catch (error) {
    say({ error: error.name })
  }
}

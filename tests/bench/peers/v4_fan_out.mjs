// One writer and many subscribers of a v4 server, in one process, as raw as its authenticated wire lets them be: the
// subscribers count what arrives and open nothing. Prints deliveries (entries times subscribers) per second.
import * as Effect from "effect/Effect"
import * as EventJournal from "effect/eventlog/EventJournal"
import * as EventLog from "effect/eventlog/EventLog"
import * as EventLogEncryption from "effect/eventlog/EventLogEncryption"
import { ChangesRpc, StoreId, WriteEntries } from "effect/eventlog/EventLogMessage"
import * as EventLogRemote from "effect/eventlog/EventLogRemote"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Scope from "effect/Scope"
import { now, say } from "./replica.mjs"
import { layerProtocol } from "./v4_parts.mjs"

const { url, identity: encoded, subscribers, writes, window } = JSON.parse(process.argv[2])
const identity = EventLog.decodeIdentityString(encoded)
const storeId = StoreId.make("default")
const runtime = ManagedRuntime.make(
  Layer.mergeAll(EventLogEncryption.layerSubtle, EventLog.layerRegistry, Layer.succeed(EventLog.Identity, identity))
)
const scope = Effect.runSync(Scope.make())

let delivered = 0
let finish
const finished = new Promise((resolve) => (finish = resolve))

const makeRemote = Effect.gen(function*() {
  const encryption = yield* EventLogEncryption.EventLogEncryption
  const client = yield* Layer.buildWithScope(
    EventLogRemote.EventLogRemoteClient.layer.pipe(Layer.provide(layerProtocol(url))),
    scope
  )
  const remote = EventLogRemote.makeWith({
    encodeWrite: ({ entries }) =>
      Effect.flatMap(
        encryption.encrypt(identity, storeId, entries),
        (batches) => new WriteEntries({ publicKey: identity.publicKey, storeId, batches }).encoded
      ),
    decodeChanges: (_identity, _storeId, data) =>
      Effect.map(ChangesRpc.decodeEncrypted(data), (batches) => {
        for (const batch of batches) delivered += batch.entryIds.length
        if (delivered >= subscribers * writes) finish()
        return []
      })
  })
  return yield* Effect.provide(Scope.provide(remote, scope), client)
})

for (let count = 0; count < subscribers; count++) {
  const remote = await runtime.runPromise(makeRemote)
  await runtime.runPromise(Scope.provide(remote.changes({ identity, storeId, startSequence: 0 }), scope))
}
const writer = await runtime.runPromise(makeRemote)
const entries = Array.from({ length: writes }, () => [
  new EventJournal.Entry({
    id: EventJournal.makeEntryIdUnsafe(),
    event: "note",
    primaryKey: "k",
    payload: crypto.getRandomValues(new Uint8Array(298))
  }, { disableChecks: true })
])
await runtime.runPromise(Effect.sleep("500 millis"))

const begun = now()
await runtime.runPromise(
  Effect.forEach(entries, (one) => writer.write({ identity, storeId, entries: one }), {
    concurrency: window,
    discard: true
  })
)
await finished
say({ deliveries_per_second: delivered / (now() - begun) })
process.exit(0)

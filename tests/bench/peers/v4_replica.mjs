// A stock Effect v4 replica with a memory or SQLite journal.
import * as Effect from "effect/Effect"
import * as EventJournal from "effect/eventlog/EventJournal"
import * as EventLog from "effect/eventlog/EventLog"
import * as EventLogRemote from "effect/eventlog/EventLogRemote"
import * as SqlEventJournal from "effect/eventlog/SqlEventJournal"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Scope from "effect/Scope"
import { makeHandled, serveReplica } from "./replica.mjs"
import { layerProtocol, layerSqlite, Notes, schema } from "./v4_parts.mjs"

const options = JSON.parse(process.argv[2])
const handled = makeHandled()
const hex = (bytes) => Buffer.from(bytes).toString("hex")
let last = ""

const handlers = EventLog.group(Notes, (group) =>
  group.handle("note", ({ entry }) =>
    Effect.sync(() => {
      last = hex(entry.id)
      handled.add(last)
    })))
const journal = options.file
  ? SqlEventJournal.layer().pipe(Layer.provide(layerSqlite(options.file, options.modules)))
  : EventJournal.layerMemory

const runtime = ManagedRuntime.make(
  EventLog.layer(schema, handlers).pipe(
    Layer.provide(journal),
    Layer.provideMerge(Layer.succeed(EventLog.Identity, EventLog.decodeIdentityString(options.identity)))
  )
)
const log = await runtime.runPromise(EventLog.EventLog)

serveReplica({
  handled,
  write: async (payload) => {
    await runtime.runPromise(log.write({ schema, event: "note", payload }))
    return last
  },
  connect: () =>
    runtime.runPromise(
      Layer.buildWithScope(
        EventLogRemote.layerEncrypted.pipe(Layer.provide(layerProtocol(options.url))),
        Effect.runSync(Scope.make())
      )
    )
})

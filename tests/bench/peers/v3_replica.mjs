// A stock Effect v3 replica with a memory or SQLite journal.
import * as EventGroup from "@effect/experimental/EventGroup"
import * as EventJournal from "@effect/experimental/EventJournal"
import * as EventLog from "@effect/experimental/EventLog"
import * as EventLogEncryption from "@effect/experimental/EventLogEncryption"
import * as EventLogRemote from "@effect/experimental/EventLogRemote"
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { makeHandled, serveReplica } from "./replica.mjs"

const options = JSON.parse(process.argv[2])
const identity = EventLog.Identity.decodeString(options.identity)
const handled = makeHandled()
const hex = (bytes) => Buffer.from(bytes).toString("hex")
let last = ""

const Notes = EventGroup.empty.add({
  tag: "note",
  primaryKey: (note) => String(note.n),
  payload: Schema.Struct({ text: Schema.String, n: Schema.Number })
})
const schema = EventLog.schema(Notes)
const handlers = EventLog.group(Notes, (group) =>
  group.handle("note", ({ entry }) =>
    Effect.sync(() => {
      last = hex(entry.id)
      handled.add(last)
    })))

const sqlite = async (filename) => {
  const SqlEventJournal = await import("@effect/sql/SqlEventJournal")
  const SqliteClient = await import("@effect/sql-sqlite-node/SqliteClient")
  return SqlEventJournal.layer().pipe(Layer.provide(SqliteClient.layer({ filename })))
}

const runtime = ManagedRuntime.make(
  Layer.mergeAll(
    EventLog.layer(schema).pipe(
      Layer.provide(handlers),
      Layer.provide(options.file ? await sqlite(options.file) : EventJournal.layerMemory),
      Layer.provide(Layer.succeed(EventLog.Identity, identity))
    ),
    EventLogEncryption.layerSubtle,
    NodeSocket.layerWebSocketConstructor
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
      EventLogRemote.fromWebSocket(options.url).pipe(
        Effect.provideService(EventLog.EventLog, log),
        Scope.extend(Effect.runSync(Scope.make()))
      )
    )
})

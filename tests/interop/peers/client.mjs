// A stock Effect replica: EventLog with a handler for each event, over a memory or SQLite journal, and EventLogRemote.
// Nothing of the peer is changed; the journal is only watched, so that a test can wait for what it does.
import * as EventJournal from "@effect/experimental/EventJournal"
import * as EventLog from "@effect/experimental/EventLog"
import * as EventLogEncryption from "@effect/experimental/EventLogEncryption"
import * as EventLogRemote from "@effect/experimental/EventLogRemote"
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as Socket from "@effect/platform/Socket"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Scope from "effect/Scope"
import { unpack } from "msgpackr"
import { answer, makeSignal, ready } from "./lines.mjs"
import { Events, schema, tags } from "./schema.mjs"

const options = JSON.parse(process.argv[2])
const identity = options.identity
  ? EventLog.Identity.decodeString(options.identity)
  : EventLog.Identity.makeRandom()

const hex = (bytes) => Buffer.from(bytes).toString("hex")
const signal = makeSignal()
const handled = new Map() // entry id -> how often its handler ran
const pushed = new Set() // entry ids that the remote has acknowledged
let following = 0 // how often a remote began to listen for local writes

const handlers = EventLog.group(Events, (group) =>
  tags.reduce((made, tag) =>
    made.handle(tag, ({ entry }) =>
      Effect.sync(() => {
        const id = hex(entry.id)
        handled.set(id, (handled.get(id) ?? 0) + 1)
        signal.changed()
      })), group))

const sqlite = async (filename) => {
  const SqlEventJournal = await import("@effect/sql/SqlEventJournal")
  const SqliteClient = await import("@effect/sql-sqlite-node/SqliteClient")
  return SqlEventJournal.layer().pipe(Layer.provideMerge(SqliteClient.layer({ filename })))
}

const watched = (journal) => ({
  ...journal,
  changes: Effect.tap(journal.changes, () =>
    Effect.sync(() => {
      following++
      signal.changed()
    })),
  withRemoteUncommited: (remoteId, f) =>
    journal.withRemoteUncommited(remoteId, (entries) =>
      Effect.tap(f(entries), () =>
        Effect.sync(() => {
          entries.forEach((entry) => pushed.add(hex(entry.id)))
          signal.changed()
        })))
})

const journal = options.journal ? await sqlite(options.journal) : EventJournal.layerMemory
const watchedJournal = Layer.effect(EventJournal.EventJournal, Effect.map(EventJournal.EventJournal, watched)).pipe(
  Layer.provide(journal)
)

const runtime = ManagedRuntime.make(
  Layer.mergeAll(
    EventLog.layer(schema).pipe(
      Layer.provide(handlers),
      Layer.provide(watchedJournal),
      Layer.provide(Layer.succeed(EventLog.Identity, identity))
    ),
    EventLogEncryption.layerSubtle,
    NodeSocket.layerWebSocketConstructor
  )
)
const log = await runtime.runPromise(EventLog.EventLog)
const write = (event, payload) => log.write({ schema, event, payload })
const connections = new Map()
let connectionCount = 0

answer({
  /** Starts to connect, and goes on by itself; wait for `following`. */
  connect: async ({ url }) => {
    const scope = Effect.runSync(Scope.make())
    const { hostname, port, protocol } = new URL(url)
    const remote = protocol === "tcp:"
      ? Effect.flatMap(NodeSocket.makeNet({ host: hostname, port: Number(port) }), (socket) =>
        Effect.provideService(EventLogRemote.fromSocket(), Socket.Socket, socket))
      : EventLogRemote.fromWebSocket(url)
    await runtime.runPromise(remote.pipe(Effect.provideService(EventLog.EventLog, log), Scope.extend(scope)))
    connections.set(++connectionCount, scope)
    return connectionCount
  },
  disconnect: async ({ connection }) => {
    await runtime.runPromise(Scope.close(connections.get(connection), Exit.void))
    connections.delete(connection)
  },
  write: async ({ event, payload }) => {
    await runtime.runPromise(write(event, payload))
  },
  writeNotes: async ({ count, prefix, bytes = 0 }) => {
    const padding = "x".repeat(bytes)
    await runtime.runPromise(Effect.forEach(
      Array.from({ length: count }, (_, number) => number),
      (number) => write("note", { id: `${prefix}-${number}`, text: `${prefix} ${number} ${padding}`, count: number }),
      { discard: true }
    ))
  },
  /** The journal, each entry once, with how often it is in there and how often its handler ran. */
  entries: async () => {
    const found = new Map()
    for (const entry of await runtime.runPromise(log.entries)) {
      const id = hex(entry.id)
      const known = found.get(id)
      if (known) known.copies++
      else {
        found.set(id, {
          id,
          event: entry.event,
          primaryKey: entry.primaryKey,
          payload: unpack(entry.payload),
          copies: 1,
          handled: handled.get(id) ?? 0
        })
      }
    }
    return [...found.values()]
  },
  /** Waits until so many entries were handled or acknowledged, or so many connections follow local writes. */
  until: ({ handled: handledCount = 0, pushed: pushedCount = 0, following: followingCount = 0 }) =>
    signal.until(() =>
      handled.size >= handledCount && pushed.size >= pushedCount && following >= followingCount
    )
})
ready({ identity: EventLog.Identity.encodeString(identity), publicKey: identity.publicKey })

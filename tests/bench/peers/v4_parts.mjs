// What the Effect v4 programs share: the event, the wire, and an SQLite client, which nobody publishes for this version.
import * as NodeWS from "@effect/platform-node/NodeWS"
import * as Effect from "effect/Effect"
import * as EventGroup from "effect/eventlog/EventGroup"
import * as EventLog from "effect/eventlog/EventLog"
import * as Layer from "effect/Layer"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as RpcClient from "effect/rpc/RpcClient"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import * as Socket from "effect/socket/Socket"
import * as SqlClient from "effect/sql/SqlClient"
import * as SqlError from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"
import * as Stream from "effect/Stream"
import { createRequire } from "node:module"

// By default a frame may have 16 MiB, and a replica with more to send than that is cut off for ever.
export const serialization = RpcSerialization.layerSchemaBinary({ maxFrameSize: "unbounded" })

export const layerProtocol = (url) =>
  RpcClient.layerProtocolSocket().pipe(
    Layer.provide(Layer.effect(Socket.Socket)(Socket.makeWebSocket(url))),
    Layer.provide(NodeWS.layerWebSocketConstructor),
    Layer.provide(serialization)
  )

export const Notes = EventGroup.empty.add({
  tag: "note",
  primaryKey: (note) => String(note.n),
  payload: Schema.Struct({ text: Schema.String, n: Schema.Number })
})
export const schema = EventLog.schema(Notes)

/** better-sqlite3 behind v4's SqlClient: one connection, WAL, as durable as ours. */
export const layerSqlite = (filename, modules) => {
  const Database = createRequire(`${modules}/better-sqlite3/package.json`)("better-sqlite3")
  const database = new Database(filename)
  database.pragma("journal_mode = WAL")
  database.pragma("synchronous = FULL")
  const statements = new Map()
  const prepare = (sql, keep) => {
    let statement = statements.get(sql)
    if (statement === undefined) {
      statement = database.prepare(sql)
      if (keep) statements.set(sql, statement)
    }
    return statement
  }
  const attempt = (run) =>
    Effect.try({
      try: run,
      catch: (cause) => new SqlError.SqlError({ reason: new SqlError.UnknownError({ cause, message: String(cause) }) })
    })
  const rows = (sql, params, keep) =>
    attempt(() => {
      const statement = prepare(sql, keep)
      if (statement.reader) return statement.all(...params)
      statement.run(...params)
      return []
    })
  const values = (sql, params, keep) => attempt(() => prepare(sql, keep).raw(true).all(...params))
  const connection = {
    execute: (sql, params, transform) => Effect.map(rows(sql, params, true), transform ?? ((found) => found)),
    executeUnprepared: (sql, params, transform) => Effect.map(rows(sql, params, false), transform ?? ((found) => found)),
    executeRaw: (sql, params) => rows(sql, params, true),
    executeValues: (sql, params) => values(sql, params, false),
    executeValuesUnprepared: (sql, params) => values(sql, params, false),
    executeStream: (sql, params, transform) =>
      Stream.unwrap(Effect.map(connection.execute(sql, params, transform), Stream.fromIterable))
  }
  return Layer.effect(SqlClient.SqlClient)(Effect.gen(function*() {
    const semaphore = yield* Semaphore.make(1)
    return yield* SqlClient.make({
      ...SqlClient.makeSqliteAcquirers({
        connection: Effect.succeed(connection),
        semaphore,
        isTransaction: () => database.inTransaction
      }),
      compiler: Statement.makeCompilerSqlite(),
      driver: "sqlite-node",
      spanAttributes: [],
      prepareTransactionControls: true,
      releaseSavepoint: (name) => `RELEASE SAVEPOINT ${name}`
    })
  })).pipe(Layer.provide(Reactivity.layer))
}

// The stock Effect v3 sync server, with memory or SQLite storage.
import * as EventLogServer from "@effect/experimental/EventLogServer"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Scope from "effect/Scope"
import { createServer } from "node:http"
import { answer, say } from "./replica.mjs"

const options = JSON.parse(process.argv[2])

const sqlite = async (filename) => {
  const SqlEventLogServer = await import("@effect/sql/SqlEventLogServer")
  const SqliteClient = await import("@effect/sql-sqlite-node/SqliteClient")
  return SqlEventLogServer.layerStorageSubtle().pipe(Layer.provide(SqliteClient.layer({ filename })))
}

const http = createServer()
const runtime = ManagedRuntime.make(options.file ? await sqlite(options.file) : EventLogServer.layerStorageMemory)
await runtime.runPromise(
  Effect.gen(function*() {
    const server = yield* NodeHttpServer.make(() => http, { host: "127.0.0.1", port: 0 })
    const router = HttpRouter.empty.pipe(HttpRouter.get("/event-log", yield* EventLogServer.makeHandlerHttp))
    yield* Effect.provideService(HttpServer.serveEffect(router), HttpServer.HttpServer, server)
  }).pipe(Scope.extend(Effect.runSync(Scope.make())))
)
answer({})
say({ url: `ws://127.0.0.1:${http.address().port}/event-log` })

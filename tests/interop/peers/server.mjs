// The stock Effect sync server, with memory or SQLite storage, over WebSocket or TCP.
import * as EventLogServer from "@effect/experimental/EventLogServer"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeSocketServer from "@effect/platform-node/NodeSocketServer"
import * as HttpRouter from "@effect/platform/HttpRouter"
import * as HttpServer from "@effect/platform/HttpServer"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Scope from "effect/Scope"
import * as Http from "node:http"
import { answer, ready } from "./lines.mjs"

const options = JSON.parse(process.argv[2])
const host = "127.0.0.1"
const port = options.port ?? 0
const hex = (bytes) => Buffer.from(bytes).toString("hex")

const sqlite = async (filename) => {
  const SqlEventLogServer = await import("@effect/sql/SqlEventLogServer")
  const SqliteClient = await import("@effect/sql-sqlite-node/SqliteClient")
  return SqlEventLogServer.layerStorageSubtle().pipe(Layer.provide(SqliteClient.layer({ filename })))
}

const runtime = ManagedRuntime.make(
  options.storage ? await sqlite(options.storage) : EventLogServer.layerStorageMemory
)
const storage = await runtime.runPromise(EventLogServer.Storage)
const scope = Effect.runSync(Scope.make())
const sockets = new Set()

const listenWebSocket = Effect.gen(function*() {
  const http = Http.createServer()
  http.on("connection", (socket) => {
    sockets.add(socket)
    socket.on("close", () => sockets.delete(socket))
  })
  const server = yield* NodeHttpServer.make(() => http, { host, port })
  const router = HttpRouter.empty.pipe(HttpRouter.get("/event-log", yield* EventLogServer.makeHandlerHttp))
  yield* Effect.provideService(HttpServer.serveEffect(router), HttpServer.HttpServer, server)
  return `ws://${host}:${http.address().port}/event-log`
})

const listenTcp = Effect.gen(function*() {
  const server = yield* NodeSocketServer.make({ host, port })
  const handler = yield* EventLogServer.makeHandler
  yield* Effect.forkScoped(server.run((socket) => Effect.scoped(handler(socket))))
  return `tcp://${host}:${server.address.port}`
})

const listen = options.transport === "tcp" ? listenTcp : listenWebSocket
const url = await runtime.runPromise(Scope.extend(listen, scope))

answer({
  /** Everything kept under a public key, in order. */
  entries: async ({ publicKey }) => {
    const entries = await runtime.runPromise(storage.entries(publicKey, 0))
    return entries.map(({ entryId, iv, sequence }) => ({ id: hex(entryId), iv: hex(iv), sequence }))
  },
  /** Cuts all connections (WebSocket only) and returns how many there were. */
  drop: async () => {
    const count = sockets.size
    sockets.forEach((socket) => socket.destroy())
    return count
  }
})
ready({ url, remoteId: hex(await runtime.runPromise(storage.getId)) })

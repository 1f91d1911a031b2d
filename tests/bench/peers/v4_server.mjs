// The stock Effect v4 sync server for encrypted entries, with memory or SQLite storage.
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as Effect from "effect/Effect"
import * as EventLogServerEncrypted from "effect/eventlog/EventLogServerEncrypted"
import * as SqlEventLogServerEncrypted from "effect/eventlog/SqlEventLogServerEncrypted"
import * as HttpRouter from "effect/http/HttpRouter"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as RpcServer from "effect/rpc/RpcServer"
import { createServer } from "node:http"
import { answer, say } from "./replica.mjs"
import { layerSqlite, serialization } from "./v4_parts.mjs"

const options = JSON.parse(process.argv[2])
const http = createServer()

const storage = options.file
  ? SqlEventLogServerEncrypted.layerStorageSubtle().pipe(Layer.provide(layerSqlite(options.file, options.modules)))
  : EventLogServerEncrypted.layerStorageMemory
const server = EventLogServerEncrypted.layer.pipe(
  Layer.provide(storage),
  Layer.provide(RpcServer.layerProtocolWebsocket({ path: "/event-log" })),
  Layer.provide(serialization)
)
const runtime = ManagedRuntime.make(
  HttpRouter.serve(server, { disableLogger: true, disableListenLog: true }).pipe(
    Layer.provide(NodeHttpServer.layer(() => http, { host: "127.0.0.1", port: 0 }))
  )
)
await runtime.runPromise(Effect.void)
answer({})
say({ url: `ws://127.0.0.1:${http.address().port}/event-log` })

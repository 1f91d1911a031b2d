// The events that both sides of a test know. `note` has a field of every kind, all optional but two; the others are those
// of the stores, with the fields that the TypeScript SDK documents.
import * as EventGroup from "@effect/experimental/EventGroup"
import * as EventLog from "@effect/experimental/EventLog"
import * as Schema from "effect/Schema"

const Fields = Schema.Record({ key: Schema.String, value: Schema.Unknown })

const Note = Schema.Struct({
  id: Schema.String,
  text: Schema.String,
  count: Schema.optional(Schema.Number),
  flag: Schema.optional(Schema.Boolean),
  tags: Schema.optional(Schema.Array(Schema.String)),
  data: Schema.optional(Schema.Uint8ArrayFromSelf),
  meta: Schema.optional(Fields)
})

const ChatEvent = Schema.Struct({
  sessionId: Schema.String,
  sequence: Schema.Number,
  timestamp: Schema.Number,
  source: Schema.Literal("sdk", "replay", "external"),
  message: Fields
})

const ArtifactRecord = Schema.Struct({
  id: Schema.String,
  sessionId: Schema.String,
  kind: Schema.Literal("file", "tool_result", "summary", "image", "other"),
  toolName: Schema.optional(Schema.String),
  toolUseId: Schema.optional(Schema.String),
  hookEvent: Schema.optional(Schema.String),
  contentType: Schema.optional(Schema.String),
  encoding: Schema.Literal("utf8", "base64"),
  content: Schema.String,
  sizeBytes: Schema.optional(Schema.Number),
  createdAt: Schema.Number,
  metadata: Schema.optional(Fields)
})

export const Events = EventGroup.empty
  .add({ tag: "note", primaryKey: (note) => note.id, payload: Note })
  .add({ tag: "chat_event", primaryKey: (event) => `${event.sessionId}:${event.sequence}`, payload: ChatEvent })
  .add({ tag: "artifact_record", primaryKey: (record) => `${record.sessionId}:${record.id}`, payload: ArtifactRecord })

export const tags = ["note", "chat_event", "artifact_record"]

export const schema = EventLog.schema(Events)

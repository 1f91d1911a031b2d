// How a test drives a peer process: one JSON object per line, commands on stdin and answers on stdout.
//
//   -> {"id": 1, "do": "write", ...}      <- {"id": 1, "ok": ...} or {"id": 1, "error": "..."}
//                                         <- {"event": "ready", ...} once, when commands may come
//
// What JSON cannot hold is an object with one key: {"$bytes": base64}, {"$undefined": true}, {"$bigint": text}.
import * as readline from "node:readline"
import { Worker } from "node:worker_threads"

export const toJson = (value) => {
  if (value === undefined) return { $undefined: true }
  if (typeof value === "bigint") return { $bigint: String(value) }
  if (value instanceof Uint8Array) return { $bytes: Buffer.from(value).toString("base64") }
  if (Array.isArray(value)) return value.map(toJson)
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, toJson(item)]))
  }
  return value
}

export const fromJson = (value) => {
  if (Array.isArray(value)) return value.map(fromJson)
  if (value === null || typeof value !== "object") return value
  if ("$undefined" in value) return undefined
  if ("$bigint" in value) return BigInt(value.$bigint)
  if ("$bytes" in value) return new Uint8Array(Buffer.from(value.$bytes, "base64"))
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, fromJson(item)]))
}

// Effect logs with console.log, and stdout is for answers.
console.log = console.info = console.debug = console.error

const say = (message) => process.stdout.write(JSON.stringify(message) + "\n")

export const ready = (facts) => say({ event: "ready", ...facts })

// A stock client that lost its server spins so that its event loop never sees stdin end; a thread still sees its parent go.
const watchParent = () => {
  const code = `
    const parent = process.ppid
    setInterval(() => process.ppid === parent || process.kill(process.pid, "SIGKILL"), 500)
  `
  new Worker(code, { eval: true, stdin: false }).unref()
}

/** Answers commands until stdin ends; then the test is over, or gone, and so is this process. */
export const answer = (commands) => {
  watchParent()
  const lines = readline.createInterface({ input: process.stdin })
  lines.on("line", async (line) => {
    const { id, do: name, ...options } = JSON.parse(line)
    try {
      say({ id, ok: toJson((await commands[name](fromJson(options))) ?? null) })
    } catch (error) {
      say({ id, error: String(error?.stack ?? error) })
    }
  })
  lines.on("close", () => process.exit(0))
}

/** Lets commands wait for a condition over what changes here, without looking again and again. */
export const makeSignal = () => {
  const waiters = new Set()
  return {
    changed: () => waiters.forEach((look) => look()),
    until: (condition) =>
      new Promise((resolve) => {
        const look = () => {
          if (!condition()) return
          waiters.delete(look)
          resolve()
        }
        waiters.add(look)
        look()
      })
  }
}

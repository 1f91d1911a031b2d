// What a benchmark asks of any replica: one JSON object per line on stdin, one answer per line on stdout, as the Python
// replica of bench_main_job.py has it. Instants are seconds of the machine's monotonic clock, so that processes compare.
import * as fs from "node:fs"
import * as readline from "node:readline"

// Effect logs with console.log, and stdout is for answers.
console.log = console.info = console.debug = console.error

export const say = (facts) => process.stdout.write(JSON.stringify(facts) + "\n")
export const now = () => Number(process.hrtime.bigint()) / 1e9
export const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000))

const rssMb = () => Number(/VmHWM:\s+(\d+)/.exec(fs.readFileSync("/proc/self/status", "utf8"))[1]) / 1024
const cpu = () => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

/** The entries whose handler has run, each once, with the instant. */
export const makeHandled = () => {
  const times = new Map()
  let waiting = () => {}
  return {
    times,
    add: (id) => {
      if (times.has(id)) return
      times.set(id, now())
      waiting()
    },
    until: (count) =>
      new Promise((resolve) => {
        waiting = () => times.size >= count && resolve()
        waiting()
      })
  }
}

/** Answers commands until stdin ends. */
export const answer = (commands) => {
  const lines = readline.createInterface({ input: process.stdin })
  let turn = Promise.resolve()
  lines.on("line", (line) => {
    const { do: name, ...options } = JSON.parse(line)
    turn = turn.then(() => commands[name](options)).catch((error) => {
      console.error(error)
      process.exit(1)
    })
  })
  lines.on("close", () => process.exit(0))
}

/**
 * The commands, for a replica that can write one note (of 298 bytes as MessagePack) and connect.
 * `write` gives a promise of the note's id in hex; `handled` is told of each note by its handler, also of those written here.
 */
export const serveReplica = ({ connect, handled, write }) => {
  const text = "x".repeat(280)
  let number = 0
  const writeNote = () => write({ text, n: ++number })
  answer({
    write: async ({ count }) => {
      for (let done = 0; done < count; done++) await writeNote()
      say({ wrote: count })
    },
    connect: async () => {
      say({ connecting: now() })
      await connect()
    },
    await_entries: async ({ count }) => {
      await handled.until(count)
      say({ complete: now(), rss_mb: rssMb(), cpu: cpu() })
    },
    follow: async ({ count }) => {
      await handled.until(count)
      say({ times: Object.fromEntries(handled.times) })
    },
    trickle: async ({ count, pause: seconds }) => {
      const times = {}
      for (let done = 0; done < count; done++) {
        const begun = now()
        times[await writeNote()] = begun
        await pause(seconds)
      }
      say({ times })
    },
    report: () => say({ rss_mb: rssMb(), cpu: cpu() })
  })
  say({ ready: true })
}

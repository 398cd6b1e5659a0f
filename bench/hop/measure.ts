import { spawn, execFileSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const ticksPerSecond = Number(execFileSync("getconf", ["CLK_TCK"]).toString());

/** User and system time of a process and of its children that live, in µs. */
export function cpuOf(pids: readonly number[]): number {
  let ticks = 0;
  for (const pid of pids.flatMap((pid) => [pid, ...childrenOf(pid)])) {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    ticks += Number(fields[11]) + Number(fields[12]);
  }
  return (ticks / ticksPerSecond) * 1e6;
}

export function childrenOf(pid: number): number[] {
  const found: number[] = [];
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    const children = readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").trim();
    for (const child of children === "" ? [] : children.split(" ").map(Number)) found.push(child, ...childrenOf(child));
  }
  return found;
}

export interface Load {
  readonly requests: number;
  readonly perSecond: number;
  readonly p50Us: number;
  readonly p99Us: number;
  /** Answers that were no 2xx, and socket errors: any voids the run. */
  readonly bad: number;
}

const units: Readonly<Record<string, number>> = { us: 1, ms: 1000, s: 1e6, m: 6e7 };

function micros(text: string | undefined): number {
  const match = /^([\d.]+)(us|ms|s|m)$/.exec(text ?? "");
  return match === null ? Number.NaN : Number(match[1]) * (units[match[2] ?? ""] ?? Number.NaN);
}

/** One run of wrk, one thread, keep-alive. */
export async function wrk(
  url: string,
  run: { connections: number; seconds: number; headers: readonly string[] },
): Promise<Load> {
  const args = [
    "-t1",
    `-c${run.connections}`,
    `-d${run.seconds}s`,
    "--latency",
    ...run.headers.flatMap((header) => ["-H", header]),
    url,
  ];
  const text = await output("wrk", args);
  const number = (pattern: RegExp): number => Number(pattern.exec(text)?.[1] ?? 0);
  const errors = /Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)/.exec(text);
  const bad =
    number(/Non-2xx or 3xx responses: (\d+)/) +
    (errors === null ? 0 : errors.slice(1).reduce((sum, count) => sum + Number(count), 0));
  return {
    requests: number(/(\d+) requests in/),
    perSecond: number(/Requests\/sec:\s+([\d.]+)/),
    p50Us: micros(/^\s+50%\s+(\S+)/m.exec(text)?.[1]),
    p99Us: micros(/^\s+99%\s+(\S+)/m.exec(text)?.[1]),
    bad,
  };
}

/** One run of h2load, one thread: over h2c with prior knowledge, or HTTP/1.1; as fast as it goes, or at a rate. */
export async function h2load(
  url: string,
  run: {
    connections: number;
    /** At a time on each connection. */
    streams: number;
    seconds: number;
    headers: readonly string[];
    /** POSTs what is in it. */
    bodyFile?: string;
    http1?: boolean;
    /** Requests per second, of all connections together. */
    rate?: number;
    /** Where it may write. */
    folder: string;
  },
): Promise<Load> {
  const log = join(run.folder, "h2load.log");
  const text = await output("h2load", [
    "-t1",
    `-c${run.connections}`,
    `-m${run.streams}`,
    `--log-file=${log}`,
    ...(run.http1 === true ? ["--h1"] : []),
    // At a rate and for a time together h2load does not end.
    ...(run.rate === undefined
      ? [`-D${run.seconds}`]
      : [`-n${Math.round(run.rate * run.seconds)}`, `--rps=${run.rate / run.connections}`]),
    ...(run.bodyFile === undefined ? [] : ["-d", run.bodyFile]),
    ...run.headers.flatMap((header) => ["-H", header]),
    url,
  ]);
  const number = (pattern: RegExp): number => Number(pattern.exec(text)?.[1] ?? 0);
  const others = /status codes: \d+ 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx/.exec(text);
  const bad =
    number(/(\d+) failed/) +
    number(/(\d+) errored/) +
    (others?.slice(1).reduce((sum, count) => sum + Number(count), 0) ?? 0);
  const requests = number(/(\d+) succeeded/);
  const durations = readFileSync(log, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => Number(line.split("\t")[2]));
  return { requests, perSecond: requests / run.seconds, ...percentiles(durations), bad };
}

/** One run of a load program of ours (load-*.ts), which prints a `Load` as JSON. */
export async function loadProgram(name: "bulk" | "echo" | "setup", args: object): Promise<Load> {
  const program = new URL(`load-${name}.ts`, import.meta.url);
  const text = await output(process.execPath, [program.pathname, JSON.stringify(args)]);
  const { requests, perSecond, p50Us, p99Us, bad } = JSON.parse(text) as Load;
  return { requests, perSecond, p50Us: p50Us ?? Number.NaN, p99Us: p99Us ?? Number.NaN, bad };
}

/** What the middle and the slowest hundredth took, of durations in µs. */
export function percentiles(durations: readonly number[]): { p50Us: number; p99Us: number } {
  const sorted = Float64Array.from(durations).sort();
  const at = (share: number): number =>
    sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
  return { p50Us: at(0.5), p99Us: at(0.99) };
}

export function output(command: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    child.stdout.on("data", (chunk: Buffer) => (text += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (text += chunk.toString()));
    child.once("error", reject);
    child.once("close", (code) =>
      code === 0 ? resolve(text) : reject(new Error(`${command} ended with ${code}: ${text}`)),
    );
  });
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? Number.NaN)
    : ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2;
}

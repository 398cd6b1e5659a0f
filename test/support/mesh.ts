import { spawn, type ChildProcess } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/**
 * A real mesh of real processes, for scenarios, the demo and benchmarks: every step goes through the command line,
 * as a person would take it.
 */
export interface MeshOptions {
  /** The program: built (demo, bench) or from source (tests). */
  readonly entry?: string;
  /** Where everything lives; made and removed by default. */
  readonly folder?: string;
  readonly trustDomain?: string;
  /** More lines of hauberk.yaml. */
  readonly config?: string;
  /** Where the control plane listens; on ports of the system's choice by default. */
  readonly ports?: { readonly mesh: number; readonly enrollment: number };
  readonly environment?: Readonly<Record<string, string>>;
}

export interface Finished {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export interface Started {
  readonly child: ChildProcess;
  readonly pid: number;
  /** The JSON line that said that it is ready. */
  readonly ready: Readonly<Record<string, unknown>>;
  /** All that it wrote so far. */
  output(): string;
  readonly exited: Promise<number>;
  kill(signal: NodeJS.Signals): Promise<number>;
}

const sourceEntry = fileURLToPath(new URL("../../src/cli/hauberk.ts", import.meta.url));
export const builtEntry = fileURLToPath(new URL("../../dist/package/lib/cli/hauberk.js", import.meta.url));

/** A file, or a folder, which has no bytes. */
interface Entry {
  readonly name: string;
  readonly mode: number;
  readonly bytes: Buffer | undefined;
}

let initiated: readonly Entry[] | undefined;

/** Every folder comes before what lies in it. */
function filesOf(folder: string): Entry[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .toSorted()
    .map((name) => {
      const path = join(folder, name);
      const found = statSync(path);
      return { name, mode: found.mode & 0o777, bytes: found.isFile() ? readFileSync(path) : undefined };
    });
}

export class Mesh {
  readonly folder: string;
  readonly home: string;
  readonly entry: string;
  readonly environment: Record<string, string>;
  readonly #started = new Set<Started>();
  /** Those that are not ready yet, too. */
  readonly #children = new Set<ChildProcess>();
  #ended = false;
  readonly #temporary: boolean;
  #ports: { readonly mesh: number; readonly enrollment: number };

  private constructor(options: MeshOptions) {
    this.#temporary = options.folder === undefined;
    this.folder = options.folder ?? mkdtempSync(join(tmpdir(), "hauberk-"));
    this.home = join(this.folder, "mesh");
    this.entry = options.entry ?? sourceEntry;
    this.#ports = options.ports ?? { mesh: 0, enrollment: 0 };
    const { PATH = "", HOME = "", NODE_COMPILE_CACHE, HAUBERK_NODE_OPTIONS } = process.env;
    this.environment = {
      PATH,
      HOME,
      XDG_STATE_HOME: join(this.folder, "state"),
      // What is built is measured as it is: with the cache, a sidecar holds its code twice.
      ...(NODE_COMPILE_CACHE === undefined || this.entry !== sourceEntry ? {} : { NODE_COMPILE_CACHE }),
      // For profiles: HAUBERK_NODE_OPTIONS="--cpu-prof --cpu-prof-dir=DIR".
      ...(HAUBERK_NODE_OPTIONS === undefined ? {} : { NODE_OPTIONS: HAUBERK_NODE_OPTIONS }),
      ...options.environment,
    };
  }

  /** `hauberk init` in a fresh folder, with `config` added to its hauberk.yaml. */
  static async create(options: MeshOptions = {}): Promise<Mesh> {
    const mesh = new Mesh(options);
    mkdirSync(mesh.folder, { recursive: true });
    if (Object.keys(options).every((name) => name === "config")) await mesh.#initAsBefore();
    else await mesh.#init(options.trustDomain);
    if (options.config !== undefined) {
      const file = join(mesh.home, "hauberk.yaml");
      writeFileSync(file, `${readFileSync(file, "utf8")}\n${options.config}\n`);
    }
    return mesh;
  }

  async #init(trustDomain = "mesh.local"): Promise<void> {
    const made = await this.run(["init", this.home, "--trust-domain", trustDomain], { cwd: this.folder });
    if (made.code !== 0) throw new Error(`init failed: ${made.err}`);
  }

  /** Writes what the first `init` of this worker wrote: sealing a CA's keys takes most of a second, by design. */
  async #initAsBefore(): Promise<void> {
    if (initiated === undefined) {
      await this.#init();
      initiated = filesOf(this.folder);
      return;
    }
    for (const { name, mode, bytes } of initiated) {
      const path = join(this.folder, name);
      if (bytes === undefined) mkdirSync(path, { mode });
      else writeFileSync(path, bytes, { mode });
    }
  }

  /** One command to its end. */
  run(
    args: readonly string[],
    around: { cwd?: string; input?: string; environment?: Readonly<Record<string, string>> } = {},
  ): Promise<Finished> {
    return new Promise((resolve, reject) => {
      const child = spawn(process.execPath, [this.entry, ...args], {
        cwd: around.cwd ?? this.home,
        env: { ...this.environment, ...around.environment },
        stdio: ["pipe", "pipe", "pipe"],
      });
      this.#children.add(child);
      child.once("exit", () => this.#children.delete(child));
      let out = "";
      let err = "";
      child.stdout.on("data", (chunk: Buffer) => (out += chunk.toString("utf8")));
      child.stderr.on("data", (chunk: Buffer) => (err += chunk.toString("utf8")));
      child.stdin.on("error", () => undefined);
      child.stdin.end(around.input ?? "");
      child.once("error", (thrown) => {
        this.#children.delete(child);
        reject(thrown);
      });
      child.once("close", (code, signal) => resolve({ code: code ?? (signal === null ? -1 : 128), out, err }));
    });
  }

  /** A command that must succeed; what it printed as JSON. */
  async json<T>(args: readonly string[]): Promise<T> {
    const done = await this.run([...args, "--json"]);
    if (done.code !== 0) throw new Error(`hauberk ${args.join(" ")} ended with ${done.code}: ${done.err}`);
    return JSON.parse(done.out) as T;
  }

  /** Starts a command that says in one JSON line when it is ready, and goes on. */
  start(
    args: readonly string[],
    around: { environment?: Readonly<Record<string, string>>; program?: readonly string[] } = {},
  ): Promise<Started> {
    if (this.#ended) return Promise.reject(new Error(`hauberk ${args.join(" ")} is not started: the mesh has ended`));
    const program = around.program === undefined ? [] : ["--", ...around.program];
    const child = spawn(process.execPath, [this.entry, ...args, "--json", ...program], {
      cwd: this.home,
      env: { ...this.environment, ...around.environment },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#children.add(child);
    child.once("exit", () => this.#children.delete(child));
    let text = "";
    const exited = new Promise<number>((resolve) =>
      child.once("exit", (code, signal) => resolve(code ?? (signal === null ? -1 : 128))),
    );
    return new Promise((resolve, reject) => {
      void exited.then((code) =>
        reject(new Error(`hauberk ${args.join(" ")} ended with ${code} before it was ready: ${text}`)),
      );
      const take = (line: string): void => {
        text += `${line}\n`;
        const ready = parseReady(line);
        if (ready === undefined) return;
        const started: Started = {
          child,
          pid: child.pid as number,
          ready,
          output: () => text,
          exited,
          kill: (signal) => {
            child.kill(signal);
            return exited;
          },
        };
        this.#started.add(started);
        void exited.then(() => this.#started.delete(started));
        resolve(started);
      };
      // `run` leaves standard output to its program, and says the same on standard error.
      createInterface({ input: child.stdout }).on("line", take);
      createInterface({ input: child.stderr }).on("line", take);
    });
  }

  /** The control plane; the ports of its first start are kept for later ones. */
  async control(environment: Readonly<Record<string, string>> = {}, flags: readonly string[] = []): Promise<Started> {
    const started = await this.start(
      [
        "control",
        "--mesh",
        `127.0.0.1:${this.#ports.mesh}`,
        "--enrollment",
        `127.0.0.1:${this.#ports.enrollment}`,
        ...flags,
      ],
      { environment },
    );
    this.#ports = { mesh: Number(started.ready["mesh"]), enrollment: Number(started.ready["enrollment"]) };
    return started;
  }

  get ports(): { readonly mesh: number; readonly enrollment: number } {
    return this.#ports;
  }

  /** Which control plane the administrator's commands talk to. */
  get controlFlag(): readonly string[] {
    return ["--control", `https://127.0.0.1:${this.#ports.mesh}`];
  }

  /** A fresh token in a 0600 file; gives its path. */
  async token(service: string, more: readonly string[] = []): Promise<string> {
    const path = join(this.folder, `${service}-${Math.random().toString(36).slice(2)}.token`);
    const made = await this.run(["token", "create", "--service", service, "--out", path, ...more, ...this.controlFlag]);
    if (made.code !== 0) throw new Error(`token create failed: ${made.err}`);
    return path;
  }

  async applyPolicies(folder: string): Promise<Finished> {
    return this.run(["policy", "apply", folder, ...this.controlFlag]);
  }

  /** A sidecar alone, enrolled with a token of its own. */
  async sidecar(
    service: string,
    flags: readonly string[] = [],
    environment: Readonly<Record<string, string>> = {},
  ): Promise<Started> {
    const tokenFile = await this.token(service);
    return this.start(
      [
        "proxy",
        "--service",
        service,
        "--token-file",
        tokenFile,
        "--open-outbound",
        "--inbound-host",
        "127.0.0.1",
        ...flags,
      ],
      { environment },
    );
  }

  /** Ends every process that is left, and removes the folder unless it was named. */
  async end(): Promise<void> {
    this.#ended = true;
    for (const { child, exited } of [...this.#started].toReversed()) {
      child.kill("SIGKILL");
      await exited;
    }
    // Those that are not ready yet, and have not ended meanwhile. Not SIGKILL: `run` may be about to start a program, which nobody else would end.
    await Promise.all(
      [...this.#children].map((child) => {
        const exited = once(child, "exit");
        child.kill("SIGTERM");
        return exited;
      }),
    );
    if (this.#temporary) rmSync(this.folder, { recursive: true, force: true });
  }
}

function parseReady(line: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null && (value as { ready?: unknown }).ready === true
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined; // A log line, not the one that is waited for.
  }
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: string;
}

/** One request over plain HTTP/1.1, to a port or a Unix socket. */
export function ask(target: {
  port?: number;
  socketPath?: string;
  host?: string;
  method?: string;
  path: string;
  headers?: Readonly<Record<string, string>>;
  body?: string;
}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      {
        ...(target.socketPath === undefined
          ? { host: "127.0.0.1", port: target.port }
          : { socketPath: target.socketPath }),
        method: target.method ?? "GET",
        path: target.path,
        agent: false,
        headers: { ...(target.host === undefined ? {} : { host: target.host }), ...target.headers },
      },
      (incoming) => {
        const chunks: Buffer[] = [];
        incoming.on("data", (chunk: Buffer) => chunks.push(chunk));
        incoming.once("error", reject);
        incoming.once("end", () =>
          resolve({
            status: incoming.statusCode ?? 0,
            headers: incoming.headers,
            body: Buffer.concat(chunks).toString("utf8"),
          }),
        );
      },
    );
    outgoing.once("error", reject);
    outgoing.end(target.body);
  });
}

/** Waits until a process has said this: its log and its ready line come through pipes of their own, in no order. */
export async function says(started: Started, words: string): Promise<void> {
  await eventually(`it says: ${words}`, 10_000, () => started.output().includes(words) || undefined);
}

/** A sidecar's metrics by `name{labels}`. */
export async function metricsOf(sidecar: Started): Promise<Map<string, number>> {
  const { body } = await ask({ socketPath: String(sidecar.ready["admin"]), path: "/metrics" });
  const values = new Map<string, number>();
  for (const line of body.split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const space = line.lastIndexOf(" ");
    values.set(line.slice(0, space), Number(line.slice(space + 1)));
  }
  return values;
}

/** The serial of the certificate that a sidecar uses. */
export async function serialOf(sidecar: Started): Promise<string> {
  const keys = [...(await metricsOf(sidecar)).keys()];
  const serial = keys.map((key) => /^hauberk_certificate_info\{serial="([^"]+)"/.exec(key)?.[1]).find(Boolean);
  if (serial === undefined) throw new Error(`no certificate is in use: ${keys.join("\n")}`);
  return serial;
}

/** The sum over every label set of a metric whose labels contain each of `labels`. */
export function sumOf(metrics: ReadonlyMap<string, number>, name: string, labels: readonly string[] = []): number {
  let sum = 0;
  for (const [key, value] of metrics) {
    const brace = key.indexOf("{");
    if ((brace < 0 ? key : key.slice(0, brace)) === name && labels.every((label) => key.includes(label))) sum += value;
  }
  return sum;
}

/** Asks again until `look` gives something, or the time is over: waiting for an event that no stream announces. */
export async function eventually<T>(
  what: string,
  withinMs: number,
  look: () => Promise<T | undefined> | T | undefined,
): Promise<T> {
  const untilMs = performance.now() + withinMs;
  for (;;) {
    const seen = await look();
    if (seen !== undefined) return seen;
    if (performance.now() > untilMs) throw new Error(`not seen within ${withinMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

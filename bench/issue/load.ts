import { readFileSync } from "node:fs";
import type { KeyObject } from "node:crypto";
import { Agent, request, type AgentOptions } from "node:https";
import type { IssuedAnswer } from "../../src/contract/enrollment.ts";
import { writeCsr } from "../../src/x509/csr.ts";
import { generateKey, spkiOf } from "../../src/x509/keys.ts";
import { toPem } from "../../src/x509/pem.ts";

/** One keep-alive connection to a listener of the control plane. */
export class Caller {
  readonly #agent: Agent;
  readonly #port: number;

  constructor(port: number, tls: AgentOptions) {
    this.#port = port;
    this.#agent = new Agent({ keepAlive: true, maxSockets: 1, checkServerIdentity: () => undefined, ...tls });
  }

  /** Rejects for anything but 200. */
  post(path: string, body: string): Promise<string> {
    const headers = { "content-type": "application/json", "content-length": String(Buffer.byteLength(body)) };
    return new Promise((resolve, reject) => {
      const asked = request(
        { host: "127.0.0.1", port: this.#port, path, method: "POST", agent: this.#agent, headers },
        (response) => {
          const parts: Buffer[] = [];
          response.on("data", (part: Buffer) => parts.push(part));
          response.on("error", reject);
          response.on("end", () => {
            const text = Buffer.concat(parts).toString("utf8");
            if (response.statusCode === 200) resolve(text);
            else reject(new Error(`${path} answered ${response.statusCode}: ${text}`));
          });
        },
      );
      asked.on("error", reject);
      asked.end(body);
    });
  }

  close(): void {
    this.#agent.destroy();
  }
}

export function renewBody(): string {
  return JSON.stringify({ csr: csrOf(generateKey()) });
}

export function enrollBody(token: string, key: KeyObject = generateKey()): string {
  return JSON.stringify({ token, csr: csrOf(key), recoveryKey: spkiOf(generateKey()).toString("base64") });
}

export function pemOf(ders: readonly string[]): string[] {
  return ders.map((der) => toPem("CERTIFICATE", Buffer.from(der, "base64")));
}

/** What an enrolled sidecar shows to the mesh API. */
export function tlsOf(key: KeyObject, text: string): AgentOptions {
  const issued = JSON.parse(text) as IssuedAnswer;
  return {
    key: key.export({ type: "pkcs8", format: "pem" }),
    cert: pemOf(issued.chain).join(""),
    ca: pemOf(issued.roots),
  };
}

export interface Round {
  /** User and system time of the whole process, all of its threads. */
  readonly cpuUsEach: number;
  readonly perSecond: number;
}

/** Sends every body once, `atOnce` under way at any time, spread over all callers; measures the other process. */
export async function load(
  pid: number,
  wish: { readonly path: string; readonly bodies: readonly string[]; readonly callers: readonly Caller[] },
  atOnce: number,
): Promise<Round> {
  const { path, bodies, callers } = wish;
  let next = 0;
  // Each line of work walks callers of its own, so that no connection has two requests at once.
  const work = async (line: number): Promise<void> => {
    for (let turn = line; next < bodies.length; turn += atOnce) {
      const body = bodies[next++] as string;
      await (callers[turn % callers.length] as Caller).post(path, body);
    }
  };
  const cpuBeforeUs = cpuUsOf(pid);
  const startMs = performance.now();
  await Promise.all(Array.from({ length: atOnce }, (_, line) => work(line)));
  const tookMs = performance.now() - startMs;
  return {
    cpuUsEach: (cpuUsOf(pid) - cpuBeforeUs) / bodies.length,
    perSecond: (bodies.length * 1_000) / tookMs,
  };
}

/** proc_pid_stat(5), fields 14 and 15, in ticks of 10 ms. */
function cpuUsOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10_000;
}

function csrOf(key: KeyObject): string {
  return writeCsr(key).toString("base64");
}

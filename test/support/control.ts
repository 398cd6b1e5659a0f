import type { KeyObject } from "node:crypto";
import type { ClientRequest, IncomingHttpHeaders, IncomingMessage } from "node:http";
import { request } from "node:https";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { Authority } from "../../src/authority/authority.ts";
import { makeCa } from "../../src/authority/init.ts";
import { authorityOptions } from "../../src/authority/options.ts";
import type { Clock } from "../../src/base/clock.ts";
import { HauberkError, isRefusal } from "../../src/base/errors.ts";
import { defaultsOf, type OptionValues } from "../../src/base/options.ts";
import type { IssuedAnswer } from "../../src/contract/enrollment.ts";
import { LineReader } from "../../src/contract/lines.ts";
import { readDown, writeLine } from "../../src/contract/read-watch.ts";
import type { Down, Registration, Up } from "../../src/contract/watch.ts";
import { ControlPlane } from "../../src/control/control-plane.ts";
import { controlOptions } from "../../src/control/options.ts";
import { registryOptions } from "../../src/registry/options.ts";
import { storageOptions } from "../../src/storage/options.ts";
import { openSqliteStore } from "../../src/storage/sqlite-store.ts";
import type { Store } from "../../src/storage/store.ts";
import { silent, type Logger } from "../../src/telemetry/logger.ts";
import { writeCsr } from "../../src/x509/csr.ts";
import { generateKey, spkiOf } from "../../src/x509/keys.ts";
import { toPem } from "../../src/x509/pem.ts";
import { ManualClock } from "./manual-clock.ts";
import { SeededRandom } from "./seeded-random.ts";

/** A real control plane on free loopback ports, with a real authority and store in a folder of its own. */
export interface TestControl {
  readonly control: ControlPlane;
  readonly authority: Authority;
  readonly store: Store;
  readonly folder: string;
  /** Stops the control plane and opens it again on the same store. */
  restart(): Promise<TestControl>;
  close(): Promise<void>;
}

export interface TestIdentity {
  readonly key: KeyObject;
  readonly issued: IssuedAnswer;
  /** For `node:tls`. */
  readonly tls: { readonly key: string; readonly cert: string; readonly ca: string[] };
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into it
  readonly json: any;
}

export interface TestControlWish {
  readonly clock: Clock;
  readonly folder?: string;
  readonly log?: Logger;
  readonly options?: Partial<OptionValues<typeof controlOptions>>;
  readonly registry?: Partial<OptionValues<typeof registryOptions>>;
  readonly authority?: Partial<OptionValues<typeof authorityOptions>>;
}

const trustDomain = "mesh.test";
const passphrase = "a passphrase for tests";

let started = 0;
let madeCa: Promise<readonly CaFile[]> | undefined;

interface CaFile {
  readonly name: string;
  readonly bytes: Buffer;
}

/**
 * One CA for all tests of a worker: sealing its keys takes most of a second. Kept as what its files say, since nobody knows
 * which test is the last to want a folder. Made an hour ago, for clocks that are behind.
 */
function caOfTests(): Promise<readonly CaFile[]> {
  madeCa ??= (async () => {
    const caFolder = mkdtempSync(join(tmpdir(), "hauberk-ca-"));
    try {
      const clock = new ManualClock(Date.now() - 3_600_000);
      const random = new SeededRandom(clock.wallMs() % 2 ** 31);
      certain(await makeCa({ caFolder, trustDomain, rootPassphrase: passphrase, passphrase, clock, random }));
      const files = readdirSync(caFolder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
      return files.map(({ parentPath, name }) => {
        const path = join(parentPath, name);
        return { name: relative(caFolder, path), bytes: readFileSync(path) };
      });
    } finally {
      rmSync(caFolder, { recursive: true, force: true });
    }
  })();
  return madeCa;
}

async function writeCa(caFolder: string): Promise<void> {
  for (const { name, bytes } of await caOfTests()) {
    const path = join(caFolder, name);
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    writeFileSync(path, bytes, { mode: 0o600 });
  }
}

export async function startControl(wish: TestControlWish): Promise<TestControl> {
  const { clock, log = silent } = wish;
  const folder = wish.folder ?? mkdtempSync(join(tmpdir(), "hauberk-control-"));
  // Another seed each time: a restart on the same store must not draw the same serials again.
  const random = new SeededRandom((Math.floor(clock.wallMs()) + 7_919 * started++) % 2 ** 31);
  const caFolder = join(folder, "ca");
  if (wish.folder === undefined) await writeCa(caFolder);
  const file = join(folder, "store", "hauberk.sqlite");
  const store = await openSqliteStore({ file, trustDomain, clock, random, options: defaultsOf(storageOptions) });
  const options = { ...defaultsOf(authorityOptions), ...wish.authority };
  const authority = await Authority.open({ store, caFolder, passphrase, clock, random, options });
  const control = await ControlPlane.start({
    store,
    authority,
    clock,
    random,
    log,
    release: "0.0.0-test",
    options: {
      control: { ...defaultsOf(controlOptions), ...wish.options },
      registry: { ...defaultsOf(registryOptions), ...wish.registry },
      storage: defaultsOf(storageOptions),
    },
    listen: { mesh: { host: "127.0.0.1", port: 0 }, enrollment: { host: "127.0.0.1", port: 0 } },
  });
  const end = async (): Promise<void> => {
    await control.stop();
    await store.close();
  };
  return {
    control,
    authority,
    store,
    folder,
    restart: async () => {
      await end();
      return startControl({ ...wish, folder });
    },
    close: async () => {
      await end();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

export function certain<T>(value: T): Exclude<T, { readonly refused: true }> {
  if (isRefusal(value)) throw HauberkError.from(value);
  return value as Exclude<T, { readonly refused: true }>;
}

export function identityOf(key: KeyObject, issued: IssuedAnswer): TestIdentity {
  const pem = (text: string): string => toPem("CERTIFICATE", Buffer.from(text, "base64"));
  const tls = {
    key: key.export({ type: "pkcs8", format: "pem" }),
    cert: issued.chain.map(pem).join(""),
    ca: issued.roots.map(pem),
  };
  return { key, issued, tls };
}

export function csrOf(key: KeyObject): string {
  return writeCsr(key).toString("base64");
}

/** An instance of a service, enrolled without the wire. */
export async function enrolled(
  { authority }: TestControl,
  service: string,
  namespace = "default",
): Promise<TestIdentity> {
  const { token } = certain(await authority.createToken({ service: { service, namespace }, by: "test" }));
  const key = generateKey();
  const recoveryKey = spkiOf(generateKey()).toString("base64");
  return identityOf(key, certain(await authority.enroll({ token, csr: csrOf(key), recoveryKey }, "127.0.0.1")));
}

export async function administrator({ authority }: TestControl, name = "ann"): Promise<TestIdentity> {
  const key = generateKey();
  return identityOf(key, certain(await authority.issueAdmin({ name, csr: csrOf(key), by: "test" })));
}

/** The roots alone, for the enrollment listener. */
export function anybody({ authority }: TestControl): { ca: string[] } {
  return { ca: authority.bundle().roots.map((root) => toPem("CERTIFICATE", Buffer.from(root, "base64"))) };
}

export interface Ask {
  readonly port: number;
  readonly tls: object;
  readonly method?: string;
  readonly path: string;
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
}

export function ask({ port, tls, method, path, body, headers }: Ask): Promise<Answer> {
  const text = body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const type =
      text === undefined
        ? {}
        : { "content-type": "application/json", "content-length": String(Buffer.byteLength(text)) };
    const asked = request(
      {
        host: "127.0.0.1",
        port,
        path,
        method: method ?? (text === undefined ? "GET" : "POST"),
        agent: false,
        checkServerIdentity: () => undefined,
        headers: { ...type, ...headers },
        ...tls,
      },
      (response) => {
        const parts: Buffer[] = [];
        response.on("data", (part: Buffer) => parts.push(part));
        response.on("error", reject);
        response.on("end", () => {
          const whole = Buffer.concat(parts).toString("utf8");
          const isJson = response.headers["content-type"]?.startsWith("application/json") === true;
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            text: whole,
            json: isJson && whole !== "" ? JSON.parse(whole) : undefined,
          });
        });
      },
    );
    asked.on("error", reject);
    asked.end(text);
  });
}

/** A watch as a sidecar holds it, raw. */
export class TestWatch {
  readonly downs: Down[] = [];
  readonly request: ClientRequest;
  /** Resolves when the response ended or was cut. */
  readonly closed: Promise<void>;
  response: IncomingMessage | undefined;
  #waiting: (() => void)[] = [];
  #taken = 0;

  private constructor(asked: ClientRequest, opened: (watch: TestWatch, response: IncomingMessage) => void) {
    this.request = asked;
    asked.on("error", () => undefined);
    this.closed = new Promise((resolve) => {
      asked.on("close", () => {
        resolve();
        this.#wake();
      });
    });
    asked.on("response", (response) => {
      this.response = response;
      const reader = new LineReader(16 * 1024 * 1024);
      response.on("error", () => undefined);
      response.on("data", (chunk: Buffer) => {
        for (const line of certain(reader.push(chunk))) this.downs.push(certain(readDown(line)));
        this.#wake();
      });
      opened(this, response);
    });
  }

  static open(
    { control }: TestControl,
    { tls }: TestIdentity,
    headers: Record<string, string> = {},
  ): Promise<TestWatch> {
    const { port } = control.addresses.mesh;
    return new Promise((resolve, reject) => {
      const asked = request({
        host: "127.0.0.1",
        port,
        path: "/v1/watch",
        method: "POST",
        agent: false,
        checkServerIdentity: () => undefined,
        headers: { "content-type": "application/x-ndjson", "transfer-encoding": "chunked", ...headers },
        ...tls,
      });
      asked.once("error", reject);
      // oxlint-disable-next-line no-new -- it resolves with itself
      new TestWatch(asked, resolve);
      asked.flushHeaders();
    });
  }

  send(message: Up): void {
    this.request.write(writeLine(message));
  }

  hello(over: Partial<Extract<Up, { type: "hello" }>> = {}): void {
    this.send({
      type: "hello",
      protocol: 1,
      release: "0.0.0",
      version: null,
      registration: null,
      subscriptions: [],
      ...over,
    });
  }

  /** The next message of these types that was not taken yet; undefined when the stream ends before. */
  async next<T extends Down["type"]>(...types: T[]): Promise<Extract<Down, { type: T }> | undefined> {
    for (;;) {
      while (this.#taken < this.downs.length) {
        const down = this.downs[this.#taken++] as Down;
        if (types.includes(down.type as T)) return down as Extract<Down, { type: T }>;
      }
      if (this.request.closed) return undefined;
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** What the full state and the deltas so far amount to. */
  state(): Map<string, unknown> {
    const state = new Map<string, unknown>();
    for (const down of this.downs) {
      if (down.type === "full") {
        state.clear();
        for (const [key, value] of down.entries) state.set(key, value);
      } else if (down.type === "delta") {
        for (const key of down.gone) state.delete(key);
        for (const [key, value] of down.set) state.set(key, value);
      }
    }
    return state;
  }

  close(): void {
    this.request.destroy();
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }
}

export function registration(over: Partial<Registration> = {}): Registration {
  const ports = [{ name: "http", port: 8080, protocol: "http" }] as const;
  return { address: "127.0.0.1", port: 15443, ports, healthy: true, draining: false, ...over };
}

import "reflect-metadata";
import { createPrivateKey, createPublicKey, webcrypto, X509Certificate, type KeyObject } from "node:crypto";
import { closeSync, openSync, readdirSync, readFileSync, readSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import * as x509 from "@peculiar/x509";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { IssuedAnswer } from "../../src/contract/enrollment.ts";
import { ask, eventually, Mesh, metricsOf, type Started } from "../support/mesh.ts";
import { allow, applyText, openRoutee, type Routee } from "./routees.ts";
import { askControl, enrollStranger, enrollWith } from "./stranger.ts";

let mesh: Mesh;
let control: Started;
let web: Started;
let orders: Started;
let routee: Routee;
/** Every key that was ever seen, those that were renewed since included. */
const known: FoundKey[] = [];

beforeAll(async () => {
  // Seconds, so that the renewals' keys are among those that are looked for.
  mesh = await Mesh.create({ config: "lifetimes: { leaf: 8s, allowSeconds: true }" });
  control = await mesh.control();
  routee = await openRoutee();
  [web, orders] = await Promise.all([
    mesh.sidecar("web", ["--log-level", "debug"]),
    mesh.sidecar("orders", ["--app", `http:${routee.port}`, "--log-level", "debug", "--access-log"]),
    applyText(mesh, allow("web", "orders")),
  ]);
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

test("a workload's private key never leaves its machine: it lies in 0600 files of its own state folder, and nowhere else", async () => {
  const first = [...keysOf("web"), ...keysOf("orders")];
  expect(first.length).toBeGreaterThanOrEqual(4); // A leaf's key and a recovery key each.
  await eventually("web calls orders", 5_000, async () => (await callOrders()) === 200 || undefined);
  const serial = serialOf(await metricsOf(web));
  await eventually(
    "web renewed its certificate",
    10_000,
    async () => serialOf(await metricsOf(web)) !== serial || undefined,
  );
  await eventually("and calls with it", 5_000, async () => (await callOrders()) === 200 || undefined);
  const keys = distinct([...first, ...keysOf("web"), ...keysOf("orders")]);
  expect(keys.length).toBeGreaterThan(first.length);
  known.push(...keys);

  const outputs = [control.output(), web.output(), orders.output(), commandLines()].join("\n");
  for (const { service, key, scalar } of keys) {
    expect(
      holds(Buffer.from(key.export({ type: "pkcs8", format: "pem" })), scalar),
      "what finds keys finds this one",
    ).toBe(true);
    expect(holds(Buffer.from(outputs), scalar)).toBe(false);
    const own = join(mesh.home, "certs", service);
    for (const file of filesBelow(mesh.folder)) {
      if (file.startsWith(own)) continue;
      expect(holds(read(file), scalar), `a key of ${service} lies in ${relative(mesh.folder, file)}`).toBe(false);
    }
  }
  for (const service of ["web", "orders"]) {
    const folder = join(mesh.home, "certs", service, "1");
    expect((statSync(folder).mode & 0o777).toString(8)).toBe("700");
    for (const file of filesBelow(folder)) {
      // Writing beside and renaming goes on meanwhile.
      const mode = modeOf(file);
      if (mode !== undefined) expect(`${relative(folder, file)} ${mode}`).toBe(`${relative(folder, file)} 600`);
    }
  }
});

const memory = memoryReadable();

test.skipIf(!memory)(
  "the control plane never sees a private key; skipped where one process may not read another's memory",
  () => {
    const current = [...keysOf("web"), ...keysOf("orders")].filter(({ leaf }) => leaf);
    expect(current.length).toBeGreaterThanOrEqual(2);
    for (const { service, key, scalar } of current) {
      // What it did see is still to be found in its memory: the public key came in the request.
      const publicPoint = createPublicKey(key).export({ type: "spki", format: "der" }).subarray(-64);
      expect(memoryHolds(control.pid, [publicPoint, publicPoint.toString("base64").slice(4, 40)])).toBe(true);
      // And the way of looking finds a private key where it has to be.
      expect(memoryHolds((service === "web" ? web : orders).pid, formsOf(scalar))).toBe(true);
    }
    const forms = distinct([...known, ...current]).flatMap(({ scalar }) => formsOf(scalar));
    expect(memoryHolds(control.pid, forms)).toBe(false);
  },
);

test("a CSR contributes a public key and proof of possession, nothing else: the identity comes from what was granted", async () => {
  const granted = ["URI:spiffe://mesh.local/ns/default/sa/shop", "DNS:shop.default.mesh"];
  const wishes: x509.JsonGeneralNames[] = [
    [{ type: "url", value: "spiffe://mesh.local/ns/default/sa/ledger" }],
    [
      { type: "url", value: "spiffe://mesh.local/ns/default/sa/shop" },
      { type: "url", value: "spiffe://mesh.local/admin/owner" },
    ],
    [{ type: "dns", value: "ledger.default.mesh" }],
    [{ type: "url", value: "spiffe://mesh.local/hauberk/control" }],
  ];
  for (const wish of wishes) {
    const { csr } = await csrFor({ names: wish });
    const refused = await enrollWith(mesh, "shop", csr);
    expect(`${refused.status} ${(JSON.parse(refused.body) as { code: string }).code}`).toBe("403 CSR_NAME_NOT_GRANTED");
  }
  // A subject, a wish to be an authority, and key usages are not names: they are simply not taken.
  const { csr } = await csrFor({ subject: "CN=ledger.default.mesh", authority: true });
  const done = await enrollWith(mesh, "shop", csr);
  expect(done.status, done.body).toBe(200);
  const leaf = leafOf(JSON.parse(done.body) as IssuedAnswer);
  expect(leaf.subjectAltName?.split(", ").sort()).toEqual([...granted].sort());
  expect([leaf.subject ?? "", leaf.ca]).toEqual(["", false]);

  // Nor does a renewal: the name is that of the instance, whatever the request says.
  const stranger = await enrollStranger(mesh, "shop");
  const other = await csrFor({ names: wishes[0] ?? [] });
  const where = { mesh, port: mesh.ports.mesh, path: "/v1/renew", identity: stranger };
  const refused = await askControl(where, { csr: other.csr });
  expect(`${refused.status} ${(JSON.parse(refused.body) as { code: string }).code}`).toBe("403 CSR_NAME_NOT_GRANTED");
  const renewed = await askControl(where, { csr: (await csrFor({ subject: "CN=admin" })).csr });
  expect(
    leafOf(JSON.parse(renewed.body) as IssuedAnswer)
      .subjectAltName?.split(", ")
      .sort(),
  ).toEqual([...granted].sort());

  // Proof of possession: somebody else's public key, without the private one, is worth nothing.
  const broken = Buffer.from((await csrFor({})).csr, "base64");
  broken.writeUInt8(broken.readUInt8(broken.length - 1) ^ 1, broken.length - 1);
  const unproven = await enrollWith(mesh, "shop", broken.toString("base64"));
  expect((JSON.parse(unproven.body) as { code: string }).code).toBe("CSR_SIGNATURE_WRONG");
});

async function callOrders(): Promise<number> {
  return (await ask({ port: Number(web.ready["outbound"]), host: "orders", path: "/" })).status;
}

interface FoundKey {
  readonly service: string;
  readonly key: KeyObject;
  /** The private number itself, 32 octets. */
  readonly scalar: Buffer;
  /** Whether it is a leaf's and not a recovery key. */
  readonly leaf: boolean;
}

/** Every private key that lies in the state folder of a service. */
function keysOf(service: string): FoundKey[] {
  return filesBelow(join(mesh.home, "certs", service)).flatMap((file) => {
    const text = read(file).toString("latin1").replaceAll("\\n", "\n");
    const pems = text.match(/-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/g) ?? [];
    return pems.map((pem) => {
      const key = createPrivateKey(pem);
      const scalar = Buffer.from(String(key.export({ format: "jwk" }).d), "base64url");
      return { service, key, scalar, leaf: !file.includes("recovery") };
    });
  });
}

function distinct(keys: readonly FoundKey[]): FoundKey[] {
  return [...new Map(keys.map((found) => [found.scalar.toString("hex"), found])).values()];
}

/** Whether a key is in there: as it is, in hexadecimal, or as base64 at any of its three offsets, lines joined. */
function holds(content: Buffer, scalar: Buffer): boolean {
  if (content.includes(scalar)) return true;
  const joined = content.toString("latin1").replaceAll(/\\n|\s/g, "");
  return textsOf(scalar).some((text) => joined.includes(text));
}

function textsOf(scalar: Buffer): string[] {
  const base64 = [0, 1, 2].flatMap((offset) => {
    const padded = Buffer.concat([Buffer.alloc(offset), scalar]);
    // Without the ends, which depend on the neighbours. PEM breaks lines, so only half of it is looked for.
    return [padded.toString("base64").slice(4, 24), padded.toString("base64url").slice(4, 24)];
  });
  return [...new Set([scalar.toString("hex"), ...base64])];
}

/** How it may lie in memory: as a number with its last octet first, as octets, or as text. */
function formsOf(scalar: Buffer): (Buffer | string)[] {
  return [Buffer.from([...scalar].toReversed()), scalar, ...textsOf(scalar)];
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

function read(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch {
    return Buffer.alloc(0); // Renamed or removed since it was listed.
  }
}

function modeOf(file: string): string | undefined {
  return statSync(file, { throwIfNoEntry: false })?.mode.toString(8).slice(-3);
}

/** Arguments and environments of every process of the mesh. */
function commandLines(): string {
  return [control, web, orders]
    .map(
      ({ pid }) => `${readFileSync(`/proc/${pid}/cmdline`, "utf8")}\n${readFileSync(`/proc/${pid}/environ`, "utf8")}`,
    )
    .join("\n");
}

/** Whether any of these stands anywhere in what a process has written to its memory. */
function memoryHolds(pid: number, wanted: readonly (Buffer | string)[]): boolean {
  const chunkBytes = 8 * 1024 * 1024;
  const overlap = 128;
  const memory = openSync(`/proc/${pid}/mem`, "r");
  try {
    for (const line of readFileSync(`/proc/${pid}/maps`, "utf8").split("\n")) {
      const [, from = "", to = ""] = /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line) ?? [];
      const end = Number.parseInt(to, 16);
      for (let at = Number.parseInt(from, 16); at < end; at += chunkBytes) {
        const chunk = Buffer.alloc(Math.min(chunkBytes + overlap, end - at));
        const got = readAt(memory, chunk, at);
        const content = chunk.subarray(0, got);
        if (wanted.some((text) => content.includes(text, 0, "latin1"))) return true;
      }
    }
    return false;
  } finally {
    closeSync(memory);
  }
}

function readAt(file: number, into: Buffer, at: number): number {
  try {
    return readSync(file, into, 0, into.length, at);
  } catch {
    return 0; // Unmapped since it was listed, or reserved only.
  }
}

function memoryReadable(): boolean {
  try {
    if (process.platform !== "linux") return false;
    const scope = readFileSync("/proc/sys/kernel/yama/ptrace_scope", { encoding: "utf8" }).trim();
    return scope === "0" || scope === "1" || process.getuid?.() === 0;
  } catch {
    return process.platform === "linux"; // No such rule on this kernel.
  }
}

function serialOf(metrics: ReadonlyMap<string, number>): string | undefined {
  return [...metrics.keys()].find((name) => name.startsWith("hauberk_certificate_info"));
}

function leafOf(answer: IssuedAnswer): X509Certificate {
  return new X509Certificate(Buffer.from(answer.chain[0] ?? "", "base64"));
}

/** A request as another program writes it, with what it would like to be. */
async function csrFor(wish: {
  names?: x509.JsonGeneralNames;
  subject?: string;
  authority?: boolean;
}): Promise<{ csr: string }> {
  const keys = await webcrypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign", "verify"]);
  x509.cryptoProvider.set(webcrypto);
  const made = await x509.Pkcs10CertificateRequestGenerator.create({
    ...(wish.subject === undefined ? {} : { name: wish.subject }),
    keys,
    signingAlgorithm: { name: "ECDSA", hash: "SHA-256" },
    extensions: [
      ...(wish.names === undefined ? [] : [new x509.SubjectAlternativeNameExtension(wish.names)]),
      ...(wish.authority === true ? [new x509.BasicConstraintsExtension(true, 3, true)] : []),
    ],
  });
  return { csr: Buffer.from(made.rawData).toString("base64") };
}

import { connect } from "node:net";
import { networkInterfaces } from "node:os";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ServicesAnswer } from "../../src/contract/admin.ts";
import { eventually, Mesh, type Started } from "../support/mesh.ts";
import { makeTestPki } from "../support/pki.ts";
import {
  applyText,
  exportIdentity,
  freePort,
  hear,
  openRoutee,
  recordTcp,
  speakTls,
  type ClientIdentity,
  type Routee,
} from "./routees.ts";
import { pemOf, signIdentity } from "./stranger.ts";
import { waitingSockets } from "./sockets.ts";

const allowEverybody = `
apiVersion: hauberk.dev/v1
kind: AuthorizationPolicy
metadata: { name: everybody }
spec: { target: { service: orders }, action: ALLOW, rules: [{ to: [{ methods: [GET, POST] }] }] }
`;
const question = "GET /secret HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";

let mesh: Mesh;
let control: Started;
let routee: Routee;
let orders: Started;
let web: ClientIdentity;
let inbound: number;

beforeAll(async () => {
  mesh = await Mesh.create();
  control = await mesh.control();
  routee = await openRoutee({ name: "the secret" });
  const tokenFile = await mesh.token("orders");
  // As people start it: the inbound listener on every address of the machine.
  const flags = ["--service", "orders", "--app", `http:${routee.port}`, "--token-file", tokenFile, "--open-outbound"];
  [orders] = await Promise.all([mesh.start(["proxy", ...flags]), mesh.sidecar("web"), applyText(mesh, allowEverybody)]);
  inbound = Number(orders.ready["inbound"]);
  web = await exportIdentity(mesh, "web");
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

test("every listening socket of a sidecar and of the control plane stands in the port table", () => {
  expect(waitingSockets(orders.pid).sort((a, b) => a.port - b.port)).toEqual(
    [
      { protocol: "tcp", address: "0.0.0.0", port: inbound },
      { protocol: "tcp", address: "127.0.0.1", port: Number(orders.ready["outbound"]) },
    ].sort((a, b) => a.port - b.port),
  );
  expect(statSync(String(orders.ready["admin"])).mode & 0o777).toBe(0o600);
  expect(waitingSockets(control.pid).sort((a, b) => a.port - b.port)).toEqual(
    [
      { protocol: "tcp", address: "127.0.0.1", port: mesh.ports.mesh },
      { protocol: "tcp", address: "127.0.0.1", port: mesh.ports.enrollment },
    ].sort((a, b) => a.port - b.port),
  );
});

test("the mesh API ends every connection that shows no certificate of the mesh", async () => {
  const asked = "GET /v1/services HTTP/1.1\r\nHost: control\r\nConnection: close\r\n\r\n";
  const foreign = await foreignIdentity("spiffe://mesh.local/admin/owner");
  for (const identity of [{}, foreign]) {
    const heard = await speakTls({ port: mesh.ports.mesh, identity }, asked);
    expect(heard.received.length).toBe(0);
  }
});

test("nothing reaches a routee from another machine without mutual TLS at its sidecar", async () => {
  // Whoever may call does reach it, over this very port: what is refused below is not refused for another reason.
  const proper = await eventually("the policy allows everybody", 5_000, async () => {
    const heard = await speakTls({ port: inbound, identity: web }, question);
    return heard.received.includes("the secret") ? heard : undefined;
  });
  expect(proper.received.toString("latin1")).toMatch(/^HTTP\/1\.1 200 /);
  const before = routee.requests.length;

  const plain = await hear(connect(inbound, "127.0.0.1"), question);
  expect(plain.received.toString("latin1")).not.toContain("HTTP");
  const intruders: Record<string, Partial<ClientIdentity>> = {
    "no certificate": {},
    "a foreign authority's certificate with the right name": await foreignIdentity(
      "spiffe://mesh.local/ns/default/sa/web",
    ),
    "a certificate of this authority that has ended": signIdentity(
      mesh,
      "spiffe://mesh.local/ns/default/sa/web",
      -60_000,
    ),
    "another trust domain's name": await foreignIdentity("spiffe://other.example/ns/default/sa/web"),
    "the administrator's certificate": adminIdentity(),
    "the control plane's certificate": signIdentity(mesh, "spiffe://mesh.local/hauberk/control", 60_000),
  };
  for (const [who, identity] of Object.entries(intruders)) {
    for (const alpn of ["http/1.1", "h2"]) {
      const heard = await speakTls({ port: inbound, identity, alpn: [alpn] }, question);
      expect(heard.received.length, `${who} over ${alpn} was sent ${heard.received.toString("latin1")}`).toBe(0);
    }
  }
  // The same hand-made way with a certificate that is in date passes: only what is wrong with the others stopped them.
  const inDate = await speakTls(
    { port: inbound, identity: signIdentity(mesh, "spiffe://mesh.local/ns/default/sa/web", 60_000) },
    question,
  );
  expect(inDate.received.toString("latin1")).toMatch(/^HTTP\/1\.1 200 /);
  expect(routee.requests.length).toBe(before + 1);
});

test("what a peer writes is never dialled: requests go to the declared ports of the routee or nowhere", async () => {
  const elsewhere = await recordTcp();
  const there = `127.0.0.1:${elsewhere.port}`;
  const rest = "Connection: close\r\n\r\n";
  const heads = [
    `GET / HTTP/1.1\r\nHost: ${there}\r\n${rest}`,
    `GET http://${there}/ HTTP/1.1\r\nHost: ${there}\r\n${rest}`,
    `CONNECT ${there} HTTP/1.1\r\nHost: ${there}\r\n${rest}`,
    `GET / HTTP/1.1\r\nHost: orders:${elsewhere.port}\r\n${rest}`,
    `GET / HTTP/1.1\r\nHost: ledger\r\n${rest}`,
  ];
  const before = routee.requests.length;
  for (const head of heads) {
    const { received } = await speakTls({ port: inbound, identity: web }, head);
    expect(received.toString("latin1"), head).toMatch(/^HTTP\/1\.1 [45]\d\d /);
  }
  expect([elsewhere.arrivals(), routee.requests.length]).toEqual([0, before]);
  await elsewhere.close();
});

const outside = Object.values(networkInterfaces())
  .flatMap((entries) => entries ?? [])
  .some((entry) => !entry.internal && entry.family === "IPv4" && !entry.address.startsWith("169.254."));

test.skipIf(!outside)(
  "a routee's own port that answers on a non-loopback address is refused (APP_PORT_EXPOSED) unless allowed by name; skipped where the machine has no such address",
  async () => {
    const port = await freePort();
    // It ends by itself with another code, so that a sidecar that lets it go on is found out soon.
    const program = `setTimeout(() => process.exit(9), 8_000); console.log(process.pid); require("node:http").createServer((_, answer) => answer.end("shop")).listen(${port}, "0.0.0.0")`;
    const flags = [
      "run",
      "--service",
      "shop",
      "--app",
      `http:${port}`,
      "--token-file",
      await mesh.token("shop"),
      "--inbound-host",
      "127.0.0.1",
    ];
    const refused = await mesh.run([...flags, "--", process.execPath, "-e", program]);
    // Once: not in the log as well.
    expect(refused.err.split("the program answers on")).toHaveLength(2);
    expect(refused.err).toContain("APP_PORT_EXPOSED");
    expect(refused.err).toContain(`--allow-exposed ${port}`);
    expect(refused.code).toBe(1);
    expect(() => process.kill(Number(refused.out.trim()), 0)).toThrow("ESRCH");
    expect(await endpointsOf("shop")).toBe(0);

    const allowed = await mesh.start([...flags, "--allow-exposed", String(port)], {
      program: [process.execPath, "-e", program],
    });
    await eventually("shop is offered", 5_000, async () => ((await endpointsOf("shop")) === 1 ? true : undefined));
    expect(await allowed.kill("SIGTERM")).not.toBe(1);
  },
);

async function endpointsOf(service: string): Promise<number> {
  const { services } = await mesh.json<ServicesAnswer>(["services", ...mesh.controlFlag]);
  return services.find((found) => found.service === service)?.endpoints.length ?? 0;
}

/** Everything right but the root. */
async function foreignIdentity(id: string): Promise<ClientIdentity> {
  const trustDomain = /^spiffe:\/\/([^/]+)/.exec(id)?.[1] ?? "";
  const { chain, key, notAfterMs } = (await makeTestPki({ trustDomain, wallMs: Date.now() })).issue(id);
  return pemOf({ chain: chain.map(({ der }) => der), key, notAfterMs });
}

function adminIdentity(): ClientIdentity {
  const folder = join(mesh.home, "certs", "admin");
  const texts = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => readFileSync(join(entry.parentPath, entry.name), "utf8"));
  const text = texts.join("\n");
  const key = /-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/.exec(text)?.[0];
  const cert = text
    .match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g)
    ?.slice(0, 2)
    .join("\n");
  if (key === undefined || cert === undefined) throw new Error("there is no administrator's certificate");
  return { key, cert, ca: "", notAfterMs: 0 };
}

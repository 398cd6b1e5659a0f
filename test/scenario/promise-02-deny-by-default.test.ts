import { afterAll, beforeAll, expect, test } from "vitest";
import { ask, eventually, Mesh, metricsOf, sumOf, type Answer, type Started } from "../support/mesh.ts";
import { allow, applyText, exportIdentity, openRoutee, speakTls, type ClientIdentity, type Routee } from "./routees.ts";

const names = ["web", "orders", "ledger"] as const;

let mesh: Mesh;
const sidecars = new Map<string, Started>();
const routees = new Map<string, Routee>();
const identities = new Map<string, ClientIdentity>();

beforeAll(async () => {
  mesh = await Mesh.create();
  await mesh.control();
  await Promise.all(
    names.map(async (name) => {
      const routee = await openRoutee({ name });
      routees.set(name, routee);
      sidecars.set(name, await mesh.sidecar(name, ["--app", `http:${routee.port}`]));
      identities.set(name, await exportIdentity(mesh, name));
    }),
  );
});

afterAll(async () => {
  await mesh.end();
  for (const routee of routees.values()) await routee.close();
});

test("a fresh mesh allows no call", async () => {
  for (const from of names) {
    for (const to of names) {
      const answer = await call(from, to);
      expect(`${from} to ${to}: ${answer.status} ${codeOf(answer)}`).toBe(`${from} to ${to}: 404 SERVICE_UNKNOWN`);
      // The callee trusts no caller to have asked its own sidecar first: over mutual TLS with a good SVID it says the same.
      expect(`${from} at ${to}: ${await callAt(from, to)}`).toBe(`${from} at ${to}: 404 SERVICE_UNKNOWN`);
    }
  }
  for (const name of names) {
    const metrics = await metricsOf(sidecar(name));
    // Both ends refused, and each counted its own refusals: three callers there, three callers here.
    expect(sumOf(metrics, "hauberk_requests_total", ['side="inbound"', 'reason="SERVICE_UNKNOWN"'])).toBe(3);
    expect(sumOf(metrics, "hauberk_requests_total", ['side="outbound"', 'reason="SERVICE_UNKNOWN"'])).toBe(3);
  }
  expectNothingDelivered();
});

test("deny is the default, and an ALLOW policy is the only way out", async () => {
  const audit = allow("web", "orders").replace("action: ALLOW", "action: ALLOW\n  mode: AUDIT");
  const deny = allow("web", "ledger").replace("action: ALLOW", "action: DENY").replace("web-calls", "web-never-calls");
  await applyText(mesh, audit + deny + allow("orders", "ledger"));
  await allowed("orders", "ledger");
  // What came with the one ALLOW, an audited one and a DENY, opened nothing else.
  for (const [from, to] of [
    ["web", "orders"],
    ["web", "ledger"],
    ["ledger", "orders"],
    ["orders", "orders"],
    ["orders", "web"],
  ] as const) {
    expect(codeOf(await call(from, to)), `${from} to ${to}`).toBe("SERVICE_UNKNOWN");
    expect(await callAt(from, to), `${from} at ${to}`).toBe("404 SERVICE_UNKNOWN");
  }
  expect(routee("web").requests).toEqual([]);
  expect(routee("orders").requests).toEqual([]);
  expect(
    routee("ledger").requests.map((seen) => /URI=([^;]+)/.exec(String(seen.headers["x-forwarded-client-cert"]))?.[1]),
  ).toEqual(routee("ledger").requests.map(() => "spiffe://mesh.local/ns/default/sa/orders"));

  // And when the ALLOW goes, so does the call: at both ends.
  await applyText(mesh, allow("ledger", "web"));
  await eventually("orders may no longer call ledger", 5_000, async () =>
    codeOf(await call("orders", "ledger")) === "SERVICE_UNKNOWN" ? true : undefined,
  );
  await eventually("nor directly", 5_000, async () =>
    (await callAt("orders", "ledger")) === "404 SERVICE_UNKNOWN" ? true : undefined,
  );
});

async function allowed(from: string, to: string): Promise<void> {
  await eventually(`${from} may call ${to}`, 5_000, async () =>
    (await call(from, to)).body === to ? true : undefined,
  );
  await eventually(`${from} may call ${to} directly`, 5_000, async () =>
    (await callAt(from, to)).startsWith("200") ? true : undefined,
  );
}

function call(from: string, to: string): Promise<Answer> {
  return ask({ port: Number(sidecar(from).ready["outbound"]), host: to, path: "/" });
}

/** Straight to the callee's inbound port, without a sidecar, with the caller's own SVID. */
async function callAt(from: string, to: string): Promise<string> {
  const identity = identities.get(from) as ClientIdentity;
  const text = `GET / HTTP/1.1\r\nHost: ${to}\r\nConnection: close\r\n\r\n`;
  const { received } = await speakTls({ port: Number(sidecar(to).ready["inbound"]), identity }, text);
  const head = received.toString("latin1");
  return `${/^HTTP\/1\.1 (\d+)/.exec(head)?.[1]} ${/x-hauberk-code: (\w+)/i.exec(head)?.[1] ?? ""}`.trim();
}

function codeOf(answer: Answer): string {
  return String(answer.headers["x-hauberk-code"] ?? answer.status);
}

function expectNothingDelivered(): void {
  for (const name of names) expect(routee(name).requests, name).toEqual([]);
}

function sidecar(name: string): Started {
  return sidecars.get(name) as Started;
}

function routee(name: string): Routee {
  return routees.get(name) as Routee;
}

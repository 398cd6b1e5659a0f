import { connect, type TLSSocket } from "node:tls";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import {
  administrator,
  anybody,
  ask,
  certain,
  csrOf,
  enrolled,
  identityOf,
  registration,
  startControl,
  TestWatch,
  type Answer,
  type TestControl,
  type TestIdentity,
} from "../../test/support/control.ts";
import type { AuthorizationPolicy } from "../base/resource.ts";
import { controlId } from "../base/spiffe-id.ts";
import type { IssuedAnswer } from "../contract/enrollment.ts";
import { limits } from "../contract/limits.ts";
import { readIssuedAnswer, readRootsAnswer } from "../contract/read-enrollment.ts";
import type { ServiceView } from "../contract/watch.ts";
import { readBundle } from "../x509/bundle.ts";
import { generateKey, spkiOf } from "../x509/keys.ts";

let plane: TestControl;
let clock: ManualClock;
let admin: TestIdentity;
const watches: TestWatch[] = [];

beforeAll(async () => {
  clock = new ManualClock(Date.now());
  plane = await startControl({ clock });
  admin = await administrator(plane);
});
afterEach(() => {
  for (const watch of watches.splice(0)) watch.close();
});
afterAll(() => plane.close());

const mesh = (identity: { tls: object }, path: string, body?: unknown, method?: string): Promise<Answer> =>
  ask({
    port: plane.control.addresses.mesh.port,
    tls: identity.tls,
    path,
    body,
    ...(method === undefined ? {} : { method }),
  });
const enrollment = (path: string, body?: unknown, method?: string): Promise<Answer> =>
  ask({
    port: plane.control.addresses.enrollment.port,
    tls: anybody(plane),
    path,
    body,
    ...(method === undefined ? {} : { method }),
  });

async function watch(
  identity: TestIdentity,
  over: Parameters<TestWatch["hello"]>[0] = {},
  on = plane,
): Promise<TestWatch> {
  const opened = await TestWatch.open(on, identity);
  watches.push(opened);
  opened.hello(over);
  return opened;
}

function policy(
  name: string,
  target: string,
  from: readonly string[],
  over: Partial<AuthorizationPolicy> = {},
): AuthorizationPolicy {
  const rules = [{ from: [{ services: from }] }];
  return {
    kind: "AuthorizationPolicy",
    name,
    namespace: "default",
    target: { service: target, namespace: "default" },
    action: "ALLOW",
    mode: "ENFORCE",
    rules,
    ...over,
  };
}

async function apply(...resources: unknown[]): Promise<void> {
  const { json } = await mesh(admin, "/v1/policies");
  const answer = await mesh(admin, "/v1/policies", { revision: json.revision, resources, allowEmpty: true }, "PUT");
  expect(answer.status, answer.text).toBe(200);
}

// Enrollment

test("a workload enrolls over the wire with what the listener publishes, and renews over mTLS", async () => {
  const roots = certain(readRootsAnswer((await enrollment("/v1/roots")).text));
  expect(roots).toEqual({ trustDomain: "mesh.test", roots: plane.authority.bundle().roots });
  const { json: made, status } = await mesh(admin, "/v1/tokens", { service: "shop" });
  expect({ status, grant: made.grant }).toEqual({ status: 201, grant: "spiffe://mesh.test/ns/default/sa/shop" });
  const key = generateKey();
  const recoveryKey = spkiOf(generateKey()).toString("base64");
  const answer = await enrollment("/v1/enroll", { token: made.token, csr: csrOf(key), recoveryKey });
  expect(answer.status).toBe(200);
  const issued = certain(readIssuedAnswer(answer.text));
  expect(issued.controlUrls).toEqual([`https://127.0.0.1:${plane.control.addresses.mesh.port}`]);
  const next = generateKey();
  const renewed = await mesh(identityOf(key, issued), "/v1/renew", { csr: csrOf(next) });
  expect(renewed.status, renewed.text).toBe(200);
  const again = certain(readIssuedAnswer(renewed.text));
  expect(again.instance).toBe(issued.instance);
  expect((await mesh(identityOf(next, again), "/v1/health")).status).toBe(200);
});

test("fifty racing enrollments over the wire with one token make one instance", async () => {
  const { json: made } = await mesh(admin, "/v1/tokens", { service: "race" });
  const recoveryKey = spkiOf(generateKey()).toString("base64");
  const answers = await Promise.all(
    Array.from({ length: 50 }, () =>
      enrollment("/v1/enroll", { token: made.token, csr: csrOf(generateKey()), recoveryKey }),
    ),
  );
  expect(answers.filter(({ status }) => status === 200)).toHaveLength(1);
  expect(answers.filter(({ json }) => json.code === "TOKEN_ALREADY_USED")).toHaveLength(49);
});

test("the published bundle is a SPIFFE bundle of our roots", async () => {
  const bundle = certain(readBundle((await enrollment("/v1/bundle")).text));
  expect(bundle.roots.map((root) => root.der.toString("base64"))).toEqual(plane.authority.bundle().roots);
});

test("the enrollment listener has no route of the mesh API, with or without a certificate", async () => {
  for (const path of ["/v1/policies", "/v1/tokens", "/v1/openapi.json", "/v1/services", "/v1/audit"]) {
    const { port } = plane.control.addresses.enrollment;
    expect((await ask({ port, tls: admin.tls, path })).json).toMatchObject({ code: "NOT_FOUND" });
  }
  expect((await enrollment("/v1/renew", { csr: "AAAA" })).status).toBe(404);
  expect((await enrollment("/v1/watch", {})).status).toBe(404);
});

test.each([
  ["a body that is no JSON", "{", "MESSAGE_INVALID", 400],
  ["an unknown key", '{"token":"a","csr":"AAAA","recoveryKey":"AAAA","name":"root"}', "MESSAGE_INVALID", 400],
  ["deep nesting", `${"[".repeat(500)}${"]".repeat(500)}`, "MESSAGE_INVALID", 400],
  ["a token that is none", '{"token":"a","csr":"AAAA","recoveryKey":"AAAA"}', "TOKEN_MALFORMED", 400],
  ["a body over the limit", " ".repeat(70_000), "BODY_TOO_LARGE", 413],
])("an enrollment with %s is refused with its code and a hint", async (_, body, code, status) => {
  const answer = await enrollment("/v1/enroll", body);
  expect({ status: answer.status, json: answer.json }).toEqual({
    status,
    json: { code, message: expect.any(String), hint: expect.any(String) },
  });
});

test("a body that is not JSON by its type is refused", async () => {
  const { port } = plane.control.addresses.enrollment;
  const headers = { "content-type": "text/plain", "content-length": "2" };
  expect((await ask({ port, tls: anybody(plane), path: "/v1/enroll", body: "{}", headers })).json).toMatchObject({
    code: "REQUEST_INVALID",
  });
});

// Who may ask

test("the mesh API asks for a certificate in TLS itself", async () => {
  await expect(mesh({ tls: anybody(plane) }, "/v1/health")).rejects.toThrow(/certificate required|ECONNRESET|EPIPE/i);
});

test("the control plane shows exactly its own identity on both listeners, under TLS 1.3 only", async () => {
  for (const { port } of Object.values(plane.control.addresses)) {
    const socket = await secured(port, admin.tls);
    expect(socket.getPeerX509Certificate()?.subjectAltName).toBe(`URI:${controlId("mesh.test")}`);
    expect(socket.getProtocol()).toBe("TLSv1.3");
    socket.destroy();
    await expect(secured(port, { ...admin.tls, maxVersion: "TLSv1.2" })).rejects.toThrow();
  }
});

function secured(port: number, tls: object): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port, checkServerIdentity: () => undefined, ...tls }, () =>
      resolve(socket),
    );
    socket.on("error", reject);
  });
}

test("no session that was ever received can be resumed", async () => {
  for (const { port } of Object.values(plane.control.addresses)) {
    const sessions: Buffer[] = [];
    const first = await secured(port, admin.tls);
    first.on("session", (session: Buffer) => sessions.push(session));
    const answered = new Promise((resolve) => first.once("data", resolve));
    first.write("GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n");
    await answered;
    first.destroy();
    for (const session of sessions) {
      const socket = await secured(port, { ...admin.tls, session });
      expect(socket.isSessionReused()).toBe(false);
      socket.destroy();
    }
  }
});

test("the control plane's own identity is nobody to its API", async () => {
  const own = certain(await plane.authority.issueControl());
  const issued = {
    chain: own.chain.map((each) => each.der.toString("base64")),
    roots: own.roots.map((each) => each.der.toString("base64")),
  };
  const answer = await mesh(identityOf(own.key, issued as unknown as IssuedAnswer), "/v1/health");
  expect(answer.json).toMatchObject({ code: "NOT_A_WORKLOAD" });
});

test("an administrator is refused where workloads ask, and a workload where administrators do", async () => {
  const web = await enrolled(plane, "web");
  for (const [method, path] of [
    ["GET", "/v1/tokens"],
    ["GET", "/v1/policies"],
    ["GET", "/v1/services"],
    ["GET", "/v1/certificates"],
    ["GET", "/v1/instances"],
    ["GET", "/v1/admins"],
    ["GET", "/v1/audit"],
  ] as const) {
    expect((await mesh(web, path, undefined, method)).json, path).toMatchObject({ code: "NOT_AN_ADMINISTRATOR" });
  }
  expect((await mesh(web, "/v1/tokens", { service: "orders" })).json).toMatchObject({ code: "NOT_AN_ADMINISTRATOR" });
  expect((await mesh(web, "/v1/policies", { revision: 0, resources: [] }, "PUT")).json).toMatchObject({
    code: "NOT_AN_ADMINISTRATOR",
  });
  expect((await mesh(admin, "/v1/renew", { csr: "AAAA" })).json).toMatchObject({ code: "NOT_A_WORKLOAD" });
});

test("an administrator who was revoked is out at the next request", async () => {
  const bob = await administrator(plane, "bob");
  expect((await mesh(bob, "/v1/admins")).status).toBe(200);
  expect((await mesh(admin, "/v1/admins/bob", undefined, "DELETE")).status).toBe(204);
  expect((await mesh(bob, "/v1/admins")).status).toBe(403);
});

test("an administrator renews the own certificate", async () => {
  const key = generateKey();
  const eve = await administrator(plane, "eve");
  const answer = await mesh(eve, "/v1/admins", { csr: csrOf(key) });
  expect(answer.status, answer.text).toBe(200);
  expect((await mesh(identityOf(key, certain(readIssuedAnswer(answer.text))), "/v1/tokens")).status).toBe(200);
});

// Policies

test("a policy set is applied whole, its difference shown, and a second writer of the same revision is refused", async () => {
  await apply();
  const { json: before } = await mesh(admin, "/v1/policies");
  const one = policy("one", "orders", ["web.default"]);
  const dry = await mesh(admin, "/v1/policies", { revision: before.revision, resources: [one], dryRun: true }, "PUT");
  expect(dry.json).toEqual({
    revision: before.revision,
    added: ["AuthorizationPolicy default/one"],
    changed: [],
    removed: [],
  });
  const applied = await mesh(admin, "/v1/policies", { revision: before.revision, resources: [one] }, "PUT");
  expect(applied.json).toMatchObject({ revision: before.revision + 1, added: ["AuthorizationPolicy default/one"] });
  const late = await mesh(
    admin,
    "/v1/policies",
    { revision: before.revision, resources: [policy("two", "orders", ["web.default"])] },
    "PUT",
  );
  expect({ status: late.status, code: late.json.code }).toEqual({ status: 409, code: "POLICY_CONFLICT" });
  const stored = await mesh(admin, "/v1/policies");
  expect(stored.json).toEqual({ revision: before.revision + 1, resources: [{ ...one, trustDomain: "mesh.test" }] });
  const audit = await mesh(admin, "/v1/audit?limit=1000");
  expect(audit.json.lines.map((line: { entry: object }) => line.entry)).toContainEqual(
    expect.objectContaining({ what: "policies-apply", who: "admin/ann" }),
  );
});

test.each([
  ["an unknown key", { ...policy("bad", "orders", []), when: "x" }, "MESSAGE_INVALID"],
  ["an impossible path", policy("bad", "orders", [], { rules: [{ to: [{ paths: ["orders"] }] }] }), "POLICY_INVALID"],
  [
    "an address that is none",
    policy("bad", "orders", [], { rules: [{ from: [{ addresses: ["10.0.0.0/99"] }] }] }),
    "POLICY_INVALID",
  ],
  [
    "a provider that is not in the set",
    policy("bad", "orders", [], { rules: [{ jwt: { provider: "default/none" } }] }),
    "POLICY_INVALID",
  ],
])("nothing of a set with %s is applied", async (_, bad, code) => {
  const { json: before } = await mesh(admin, "/v1/policies");
  const answer = await mesh(
    admin,
    "/v1/policies",
    { revision: before.revision, resources: [policy("good", "orders", ["web.default"]), bad] },
    "PUT",
  );
  expect(answer.json).toMatchObject({ code, hint: expect.any(String) });
  expect((await mesh(admin, "/v1/policies")).json).toEqual(before);
});

test("an empty set is refused unless it is asked for by name", async () => {
  await apply(policy("one", "orders", ["web.default"]));
  const { json: before } = await mesh(admin, "/v1/policies");
  const refused = await mesh(admin, "/v1/policies", { revision: before.revision, resources: [] }, "PUT");
  expect(refused.json).toMatchObject({ code: "POLICY_SET_EMPTY" });
  const applied = await mesh(
    admin,
    "/v1/policies",
    { revision: before.revision, resources: [], allowEmpty: true },
    "PUT",
  );
  expect(applied.json).toMatchObject({ removed: ["AuthorizationPolicy default/one"] });
});

// The watch

test("a watch begins with the full state, and a delta follows what changes", async () => {
  await apply(policy("web-reads", "orders", ["web.default"]));
  const web = await enrolled(plane, "web");
  const orders = await enrolled(plane, "orders");
  const seen = await watch(web, { subscriptions: ["orders.default"] });
  const full = await seen.next("full");
  expect(new Map(full?.entries).get("bundle")).toEqual(plane.authority.bundle());
  expect(new Map(full?.entries).get("own")).toEqual({ policies: [] });
  expect(new Map(full?.entries).get("service/orders.default")).toMatchObject({
    id: "spiffe://mesh.test/ns/default/sa/orders",
    endpoints: [],
  });
  const offered = await watch(orders, { registration: registration() });
  expect(new Map((await offered.next("full"))?.entries).get("own")).toMatchObject({
    policies: [{ name: "web-reads" }],
  });
  const delta = await seen.next("delta");
  expect(delta?.set.map(([key]) => key)).toEqual(["service/orders.default"]);
  const view = seen.state().get("service/orders.default") as ServiceView;
  expect(view.endpoints).toEqual([
    {
      instance: orders.issued.instance,
      address: "127.0.0.1",
      port: 15443,
      ports: registration().ports,
      healthy: true,
      stale: false,
    },
  ]);
  expect(delta?.version.counter).toBeGreaterThan(full?.version.counter ?? Infinity);
  offered.send({ type: "register", registration: null });
  await seen.next("delta");
  expect((seen.state().get("service/orders.default") as ServiceView).endpoints).toEqual([]);
});

test("a service that no policy lets one call and one that does not exist are the same null", async () => {
  await apply(policy("web-reads", "orders", ["web.default"]));
  const nosy = await enrolled(plane, "nosy");
  const offered = await watch(await enrolled(plane, "orders"), { registration: registration() });
  await offered.next("full");
  const seen = await watch(nosy, { subscriptions: ["orders.default"] });
  await seen.next("full");
  seen.send({ type: "subscribe", service: "nothing.default" });
  await seen.next("delta");
  expect(seen.state().get("service/orders.default")).toBeNull();
  expect(seen.state().get("service/nothing.default")).toBeNull();
  const text = JSON.stringify(seen.downs);
  for (const secret of ["web-reads", "sa/orders", "15443"]) expect(text).not.toContain(secret);
});

test("a policy that lets a sidecar in is told at once, and one that shuts it out as well", async () => {
  await apply();
  const seen = await watch(await enrolled(plane, "web"), { subscriptions: ["orders.default"] });
  await seen.next("full");
  await apply(policy("p", "orders", ["web.default"]));
  await seen.next("delta");
  expect(seen.state().get("service/orders.default")).toMatchObject({ policies: [{ name: "p" }] });
  await apply(policy("p", "orders", ["other.default"]));
  await seen.next("delta");
  expect(seen.state().get("service/orders.default")).toBeNull();
});

test("policies are reduced to the rules that can match the asking identity", async () => {
  await apply(policy("many", "orders", ["web.default", "secret.default"]));
  const seen = await watch(await enrolled(plane, "web"), { subscriptions: ["orders.default"] });
  await seen.next("full");
  expect(JSON.stringify(seen.state().get("service/orders.default"))).not.toContain("secret");
});

test("a provider comes with the policies that name it, and goes with them", async () => {
  const corp = {
    kind: "JwtProvider",
    name: "corp",
    namespace: "default",
    issuer: "https://id.example",
    audiences: ["orders"],
    algorithms: ["ES256"],
    keys: { is: "uri", uri: "https://id.example/keys" },
    forward: true,
  };
  await apply(
    corp,
    policy("p", "orders", [], {
      rules: [{ from: [{ services: ["web.default"] }], jwt: { provider: "default/corp" } }],
    }),
  );
  const seen = await watch(await enrolled(plane, "web"));
  await seen.next("full");
  expect([...seen.state().keys()]).toEqual(["bundle", "own"]);
  seen.send({ type: "subscribe", service: "orders.default" });
  await seen.next("delta");
  expect(seen.state().get("provider/default/corp")).toEqual(corp);
  seen.send({ type: "unsubscribe", service: "orders.default" });
  const gone = await seen.next("delta");
  expect(gone?.gone).toEqual(["provider/default/corp"]);
});

test("a service that was dropped and asked for again is answered again", async () => {
  await apply(policy("p", "orders", ["web.default"]));
  const seen = await watch(await enrolled(plane, "web"), { subscriptions: ["orders.default"] });
  await seen.next("full");
  seen.send({ type: "unsubscribe", service: "orders.default" });
  seen.send({ type: "subscribe", service: "orders.default" });
  expect((await seen.next("delta"))?.set.map(([key]) => key)).toEqual(["service/orders.default"]);
});

test("the newest stream of an instance wins, and the older is told so", async () => {
  const web = await enrolled(plane, "web");
  const older = await watch(web, { registration: registration() });
  await older.next("full");
  const newer = await watch(web, { registration: registration() });
  await newer.next("full");
  expect(await older.next("goodbye")).toMatchObject({ because: expect.stringContaining("newer") });
  await older.closed;
  const { json } = await mesh(admin, "/v1/services");
  expect(json.sidecars.filter((each: { instance: string }) => each.instance === web.issued.instance)).toHaveLength(1);
  const endpoints = json.services.flatMap(
    (service: { endpoints: { instance: string; connected: boolean }[] }) => service.endpoints,
  );
  expect(endpoints.filter((each: { instance: string }) => each.instance === web.issued.instance)).toEqual([
    expect.objectContaining({ connected: true }),
  ]);
});

test("what a sidecar acknowledged or rejected is shown with the reason", async () => {
  const web = await enrolled(plane, "web");
  const seen = await watch(web);
  const version = (await seen.next("full"))?.version ?? { epoch: "", counter: 0 };
  seen.send({ type: "ack", version });
  seen.send({ type: "reject", version, because: "no root in it" });
  seen.send({ type: "subscribe", service: "x.default" });
  await seen.next("delta");
  const { json } = await mesh(admin, "/v1/services");
  const row = json.sidecars.find((each: { instance: string }) => each.instance === web.issued.instance);
  expect(row).toMatchObject({
    acknowledged: version,
    rejected: { version, because: "no root in it" },
    release: "0.0.0",
    subscriptions: ["x.default"],
  });
});

test("a stream that says no hello first, or says it twice, is refused and ended", async () => {
  const web = await enrolled(plane, "web");
  const mute = await TestWatch.open(plane, web);
  watches.push(mute);
  mute.send({ type: "pong", number: 1 });
  expect(await mute.next("refused")).toMatchObject({ code: "MESSAGE_INVALID" });
  await mute.closed;
  const twice = await watch(web);
  twice.hello();
  expect(await twice.next("refused")).toMatchObject({ code: "MESSAGE_INVALID" });
  await twice.closed;
});

test.each([
  ["no JSON", "}{\n"],
  ["an unknown type", '{"type":"root"}\n'],
  ["a line without an end", "x".repeat(limits.upLineBytesMax + 1)],
  ["deep nesting", `${"[".repeat(10_000)}\n`],
  ["bytes that are no text", Buffer.from([0xff, 0xfe, 0x00, 0x0a])],
])("a stream with %s is refused and ended, and the control plane goes on", async (_, bytes) => {
  const seen = await watch(await enrolled(plane, "web"));
  await seen.next("full");
  seen.request.write(bytes);
  expect(await seen.next("refused")).toMatchObject({ code: "MESSAGE_INVALID" });
  await seen.closed;
  expect((await mesh(admin, "/v1/health")).json).toMatchObject({ status: "ok" });
});

test("an instance that is locked loses stream and endpoint at once, and can open no other", async () => {
  const web = await enrolled(plane, "locked");
  const seen = await watch(web, { registration: registration() });
  await seen.next("full");
  const { instance } = web.issued;
  expect((await mesh(admin, `/v1/instances/${instance}/lock`, { because: "stolen" })).status).toBe(204);
  expect(await seen.next("refused")).toMatchObject({ code: "INSTANCE_LOCKED" });
  await seen.closed;
  const { json } = await mesh(admin, "/v1/services");
  expect(JSON.stringify(json)).not.toContain(instance);
  expect((await mesh(web, "/v1/renew", { csr: csrOf(generateKey()) })).json).toMatchObject({ code: "INSTANCE_LOCKED" });
  expect((await mesh(admin, `/v1/instances/${instance}/unlock`, undefined, "POST")).status).toBe(204);
  expect(await (await watch(web)).next("full")).toBeDefined();
});

test("pings come, and a sidecar that answers none is given up", async () => {
  const seen = await watch(await enrolled(plane, "web"));
  await seen.next("full");
  for (let s = 0; s < 11; s++) clock.advance(1_000);
  const ping = await seen.next("ping");
  expect(ping?.wallMs).toBeGreaterThan(0);
  seen.send({ type: "pong", number: ping?.number ?? -1 });
  seen.send({ type: "subscribe", service: "y.default" });
  await seen.next("delta");
  for (let s = 0; s < 29; s++) clock.advance(1_000);
  expect(seen.request.closed).toBe(false);
  for (let s = 0; s < 3; s++) clock.advance(1_000);
  await seen.closed;
});

// Reading it all

test("services, certificates, instances and audit are paged and complete", async () => {
  const all = new Set<string>();
  let after = "";
  for (let pages = 0; pages < 200; pages++) {
    const { json } = await mesh(admin, `/v1/certificates?limit=7&all=true${after}`);
    for (const row of json.certificates) all.add(row.serial);
    if (json.next === null) break;
    after = `&after=${json.next}`;
  }
  const stored = await plane.authority.listLeaves({ limit: 1_000 });
  expect([...all].sort()).toEqual(stored.map((row) => row.serial).sort());
  const { json: instances } = await mesh(admin, "/v1/instances?limit=1000");
  expect(instances.instances.length).toBe((await plane.authority.listInstances()).length);
  const { json: audit } = await mesh(admin, "/v1/audit?limit=2");
  expect(audit.lines).toHaveLength(2);
  const { json: more } = await mesh(admin, `/v1/audit?limit=2&after=${audit.next}`);
  expect(more.lines[0].number).toBeGreaterThan(audit.lines[1].number);
});

test("the OpenAPI document names every route with its schema", async () => {
  const { json } = await mesh(admin, "/v1/openapi.json");
  expect(json.openapi).toBe("3.1.0");
  expect(Object.keys(json.paths).sort()).toEqual([
    "/v1/admins",
    "/v1/admins/{name}",
    "/v1/audit",
    "/v1/certificates",
    "/v1/health",
    "/v1/instances",
    "/v1/instances/{id}/lock",
    "/v1/instances/{id}/unlock",
    "/v1/openapi.json",
    "/v1/policies",
    "/v1/renew",
    "/v1/services",
    "/v1/tokens",
    "/v1/tokens/{id}",
    "/v1/watch",
  ]);
  expect(json.paths["/v1/policies"].put.requestBody.content["application/json"].schema.properties).toHaveProperty(
    "revision",
  );
});

test("a token can be listed and revoked, and its text is nowhere", async () => {
  const { json: made } = await mesh(admin, "/v1/tokens", { service: "orders", uses: 3, ttlMs: 60_000 });
  const listed = await mesh(admin, "/v1/tokens?limit=1000");
  expect(listed.text).not.toContain(made.token);
  expect(listed.json.tokens).toContainEqual(
    expect.objectContaining({ id: made.id, usesMax: 3, usesCount: 0, createdBy: "admin/ann" }),
  );
  expect((await mesh(admin, `/v1/tokens/${made.id}`, undefined, "DELETE")).status).toBe(204);
  const recoveryKey = spkiOf(generateKey()).toString("base64");
  expect(
    (await enrollment("/v1/enroll", { token: made.token, csr: csrOf(generateKey()), recoveryKey })).json,
  ).toMatchObject({ code: "TOKEN_REVOKED" });
  expect((await mesh(admin, "/v1/tokens/none", undefined, "DELETE")).status).toBeGreaterThanOrEqual(403);
});

test.each([
  ["/v1/tokens", { service: "Orders" }],
  ["/v1/tokens", { service: "orders", grant: "x" }],
  ["/v1/tokens", { service: "orders", uses: 0 }],
  ["/v1/tokens", "[1"],
  ["/v1/tokens", `{"service":"orders","__proto__":{"uses":9}}`],
])("an impossible request to %s is refused: %j", async (path, body) => {
  expect((await mesh(admin, path, body)).json).toMatchObject({
    code: "MESSAGE_INVALID",
    message: expect.stringMatching(/^Cannot /),
  });
});

import { generateKeyPairSync, sign } from "node:crypto";
import * as fc from "fast-check";
import { expect, test } from "vitest";
import {
  FakeConnection,
  FakeServerExchange,
  type Asked,
  type FakeClientExchange,
} from "../../test/support/exchanges.ts";
import { ManualClock, rethrow } from "../../test/support/manual-clock.ts";
import { allow, endpoint, idOf, outboundBench } from "../../test/support/outbound.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { defaultsOf, type OptionValues } from "../base/options.ts";
import { Published } from "../base/published.ts";
import type { AuthorizationPolicy, JwtProvider, Rule } from "../base/resource.ts";
import { fieldOf } from "../http/message.ts";
import { reduceFor } from "../policy/reduce.ts";
import { resilienceOptions } from "../resilience/options.ts";
import { RetryBudget } from "../resilience/retry.ts";
import { silent } from "../telemetry/logger.ts";
import { Metrics } from "../telemetry/metrics.ts";
import { Alarms, coarseWheel } from "./alarms.ts";
import { Audits } from "./audits.ts";
import { Labels } from "./headers.ts";
import { inboundHandler, type InboundContext } from "./inbound.ts";
import { TokenVerifier } from "./jwt.ts";
import { Meters } from "./meters.ts";
import { proxyOptions } from "./options.ts";
import { PeerShare, PerPeer } from "./peer-share.ts";
import { Routes } from "./routes.ts";
import { buildSnapshot } from "./snapshot.ts";
import { StandingCalls } from "./standing.ts";

const web = { id: idOf("web"), leaf: {} as never };
const evil = { id: idOf("evil"), leaf: {} as never };
const connect = { method: "CONNECT", path: "", authority: "orders.default.mesh:6379", body: true };
const rules: Rule[] = [{ from: [{ services: ["web.default"] }] }];

function inboundBench(
  use: {
    policies?: readonly AuthorizationPolicy[];
    providers?: readonly JwtProvider[];
    options?: Partial<OptionValues<typeof proxyOptions>>;
    onFault?: (thrown: unknown) => void;
  } = {},
) {
  const clock = new ManualClock();
  const options = { ...defaultsOf(proxyOptions), ...use.options };
  const metrics = new Metrics();
  const meters = new Meters(metrics);
  const lines: string[] = [];
  const routee = new FakeConnection("http/1.1");
  const other = new FakeConnection("http/1.1");
  const tcp = new FakeConnection();
  const verifier = new TokenVerifier({
    clock,
    log: silent,
    options,
    load: () => Promise.reject(new Error("no network")),
  });
  const snapshot = new Published(
    buildSnapshot([
      ["own", { policies: use.policies ?? [allow("orders", rules)] }],
      ...(use.providers ?? []).map((one) => [`provider/${one.namespace}/${one.name}`, one] as const),
    ]),
  );
  verifier.use(snapshot.read().providers);
  const open = (): Pick<InboundContext, "openRequests" | "openTunnels"> => ({
    openRequests: new PeerShare(meters.openRequests.with("inbound")),
    openTunnels: new PeerShare(meters.openTunnels.with("inbound")),
  });
  const context: InboundContext = {
    side: "inbound",
    clock,
    log: silent,
    options,
    alarms: new Alarms(clock, rethrow),
    tunnelAlarms: new Alarms(clock, rethrow, coarseWheel),
    meters,
    labels: new Labels(new SeededRandom(1)),
    access: undefined,
    ...open(),
    audits: new Audits({ clock, log: { ...silent, info: (message) => lines.push(message) }, meters, side: "inbound" }),
    noService: meters.requests("inbound", "orders.default"),
    keepCode: false,
    onFault: use.onFault ?? rethrow,
    resilience: defaultsOf(resilienceOptions),
    snapshot,
    verifier,
    routes: new Routes({ namespace: "default", trustDomain: "mesh.local", egress: [] }),
    service: "orders.default",
    ownId: () => idOf("orders").text,
    ports: [
      { port: { name: "tcp", port: 6379, protocol: "tcp" }, sender: tcp },
      { port: { name: "http", port: 8080, protocol: "http" }, sender: routee },
      { port: { name: "more", port: 9090, protocol: "http" }, sender: other },
    ],
    budget: new RetryBudget(defaultsOf(resilienceOptions)),
    standing: new StandingCalls(clock, options.drainMs, rethrow),
  };
  snapshot.subscribe((next, before) => context.standing.follow(next, before));
  const peers = new PerPeer((): InboundContext => ({ ...context, ...open() }));
  const ask = (asked: Asked = {}): FakeServerExchange => {
    const exchange = new FakeServerExchange({
      protocol: "h2",
      scheme: "https",
      localPort: 15_443,
      remoteAddress: "10.1.2.3",
      peer: web,
      ...asked,
    });
    inboundHandler(peers.join(exchange.connection.peer?.id.text ?? "").of)(exchange);
    return exchange;
  };
  const settle = () => new Promise<void>((resolve) => setImmediate(resolve));
  return { clock, context, metrics, lines, routee, other, tcp, snapshot, ask, settle };
}

const codeOf = (exchange: FakeServerExchange): string | undefined =>
  fieldOf(exchange.answer?.fields ?? [], "x-hauberk-code");

test("an allowed call reaches the routee at once, normalized, with who called", () => {
  const bench = inboundBench();
  const exchange = bench.ask({ path: "//a/%7Eb?q", fields: ["x-request-id", "r", "accept", "*/*"] });
  const { last } = bench.routee;
  expect(last.head).toMatchObject({ method: "GET", scheme: "http", authority: "orders", path: "/a/~b?q" });
  expect(last.head.fields.slice(0, 8)).toEqual([
    "accept",
    "*/*",
    "via",
    "2 hauberk",
    "x-forwarded-client-cert",
    `By=${idOf("orders").text};URI=${idOf("web").text}`,
    "x-request-id",
    "r",
  ]);
  expect(fieldOf(last.head.fields, "traceparent")).toMatch(/^00-/);
  last.respond(200, ["x-hauberk-code", "DENIED", "X-Forwarded-Client-Cert", "y", "a", "b"], false);
  last.data("x");
  last.finish();
  expect([exchange.answer?.fields, exchange.text(), exchange.over]).toEqual([["a", "b"], "x", "ended"]);
});

test("what a peer forges of ours is gone, but for a deadline and an id", () => {
  const bench = inboundBench();
  bench.ask({
    fields: [
      "x-hauberk-peer",
      "root",
      "x-hauberk-timeout-ms",
      "70",
      "x-forwarded-client-cert",
      "URI=root",
      "x_hauberk_peer",
      "root",
      "proxy-authorization",
      "x",
    ],
  });
  const { fields } = bench.routee.last.head;
  expect(fields.join("|")).not.toMatch(/root|proxy|x-hauberk/);
  bench.clock.advance(90);
  expect(bench.routee.last.aborted?.kind).toBe("cancelled");
});

test.each([
  ["nobody proven", { peer: undefined as never }, "PEER_UNTRUSTED"],
  ["CONNECT without a port", { ...connect, authority: "orders" }, "NOT_IN_MESH"],
  ["CONNECT to an HTTP port", { ...connect, authority: "orders:8080" }, "NOT_IN_MESH"],
  ["CONNECT to the sidecar's own port", { ...connect, authority: "orders:15443" }, "NOT_IN_MESH"],
  ["CONNECT to a port that was not declared", { ...connect, authority: "orders:22" }, "NOT_IN_MESH"],
  ["CONNECT to loopback", { ...connect, authority: "127.0.0.1:6379" }, "NOT_IN_MESH"],
  ["CONNECT to loopback by name", { ...connect, authority: "localhost:6379" }, "NOT_IN_MESH"],
  ["CONNECT to loopback in IPv6", { ...connect, authority: "[::1]:6379" }, "NOT_IN_MESH"],
  ["CONNECT to loopback in another spelling", { ...connect, authority: "127.1:6379" }, "REQUEST_INVALID"],
  ["CONNECT to loopback mapped to IPv6", { ...connect, authority: "[::ffff:127.0.0.1]:6379" }, "NOT_IN_MESH"],
  ["CONNECT to the metadata service", { ...connect, authority: "169.254.169.254:80" }, "NOT_IN_MESH"],
  ["CONNECT to the unspecified address", { ...connect, authority: "0.0.0.0:6379" }, "NOT_IN_MESH"],
  ["CONNECT to another service", { ...connect, authority: "ledger:6379" }, "NOT_IN_MESH"],
  ["CONNECT to another namespace", { ...connect, authority: "orders.shop:6379" }, "NOT_IN_MESH"],
  ["CONNECT by an identity that no rule names", { ...connect, peer: evil }, "SERVICE_UNKNOWN"],
  ["a request to a TCP port", { authority: "orders:6379" }, "NOT_IN_MESH"],
  ["an upgrade at a TCP port", { authority: "orders:6379", upgrade: "websocket", body: true }, "NOT_IN_MESH"],
  ["a path above the root", { path: "/../x" }, "REQUEST_INVALID"],
  ["another service's name", { authority: "ledger" }, "NOT_IN_MESH"],
  ["another namespace", { authority: "orders.shop" }, "NOT_IN_MESH"],
  ["an address", { authority: "127.0.0.1:8080" }, "NOT_IN_MESH"],
  ["the metadata service", { authority: "169.254.169.254" }, "NOT_IN_MESH"],
  ["a port of this machine that was not declared", { authority: "orders:22" }, "NOT_IN_MESH"],
  ["no authority", { authority: "" }, "REQUEST_INVALID"],
  ["a deadline that is over", { fields: ["x-hauberk-timeout-ms", "0"] }, "DEADLINE_EXCEEDED"],
  ["an identity that no rule names", { peer: evil }, "SERVICE_UNKNOWN"],
])("%s is refused, and the routee hears nothing", (_, asked, code) => {
  const bench = inboundBench();
  const exchange = bench.ask(asked);
  expect(codeOf(exchange)).toBe(code);
  const { routee, other, tcp } = bench;
  expect([routee.requests.length, other.requests.length, tcp.requests.length]).toEqual([0, 0, 0]);
});

test("CONNECT to a declared TCP port arrives there, decided by identity and port, and no field comes with it", () => {
  const bench = inboundBench({ policies: [allow("orders", [{ ...rules[0], to: [{ ports: [6379] }] }])] });
  const exchange = bench.ask({ ...connect, fields: ["x-a", "1", "authorization", "Bearer x"] });
  exchange.send("early");
  const { last } = bench.tcp;
  expect([last.head.method, last.head.authority, last.text()]).toEqual(["CONNECT", "orders.default.mesh:6379", ""]);
  expect(fieldOf(last.head.fields, "x-a")).toBeUndefined();
  last.respond(200, [], false);
  last.data("hello");
  expect([exchange.answer?.status, last.text(), exchange.text()]).toEqual([200, "early", "hello"]);
  expect([bench.routee.requests.length, bench.other.requests.length]).toEqual([0, 0]);
  expect(codeOf(bench.ask())).toBe("DENIED");
});

test.each([
  ["a token", { jwt: { provider: "corp" } }],
  ["a method", { to: [{ methods: ["GET"] }] }],
  ["a header", { to: [{ headers: { "x-a": ["1"] } }] }],
])("an ALLOW with %s does not let TCP in, and causes no work for a token", (_name, more) => {
  const bench = inboundBench({ policies: [allow("orders", [{ ...rules[0], ...more }])] });
  const exchange = bench.ask({ ...connect, fields: ["x-a", "1", "authorization", "Bearer x.y.z"] });
  expect(codeOf(exchange)).toBe("DENIED");
  expect(bench.tcp.requests).toHaveLength(0);
});

test("a routee whose TCP port does not accept is CONNECT_FAILED, after one more try", async () => {
  const bench = inboundBench();
  const exchange = bench.ask(connect);
  bench.tcp.last.lose("unprocessed");
  await bench.settle();
  bench.tcp.last.lose("unprocessed");
  expect([codeOf(exchange), bench.tcp.requests.length]).toEqual(["CONNECT_FAILED", 2]);
});

test("a call that could be allowed and is not is DENIED; nothing is allowed by default", () => {
  const bench = inboundBench({ policies: [allow("orders", [{ ...rules[0], to: [{ methods: ["PUT"] }] }])] });
  expect(codeOf(bench.ask())).toBe("DENIED");
  expect(codeOf(inboundBench({ policies: [] }).ask())).toBe("SERVICE_UNKNOWN");
});

test("the port is one that was declared: by number, by default, and by the port that was connected to", () => {
  const bench = inboundBench({ policies: [allow("orders", [{ ...rules[0], to: [{ ports: [9090] }] }])] });
  expect(codeOf(bench.ask())).toBe("DENIED");
  bench.ask({ authority: "orders.default.mesh:9090" });
  expect(bench.other.last.head.authority).toBe("orders.default.mesh:9090");
  const open = inboundBench();
  open.ask({ authority: "orders.default.mesh:15443" });
  expect(open.routee.last.head.authority).toBe("orders.default.mesh");
});

test("the source address is seen here, and what is unknown elsewhere is decided", () => {
  const only = (address: string) => [
    allow("orders", [{ from: [{ services: ["web.default"], addresses: [address] }] }]),
  ];
  expect(codeOf(inboundBench({ policies: only("10.1.0.0/16") }).ask())).toBeUndefined();
  expect(codeOf(inboundBench({ policies: only("10.2.0.0/16") }).ask())).toBe("DENIED");
  expect(codeOf(inboundBench({ policies: only("10.1.0.0/16") }).ask({ remoteAddress: "" }))).toBe("DENIED");
  // Even where nothing could be seen: unknown is no.
  expect(codeOf(inboundBench({ policies: only("10.1.0.0/16") }).ask({ remoteAddress: undefined as never }))).toBe(
    "DENIED",
  );
});

const ec = generateKeyPairSync("ec", { namedCurve: "P-256" });
const corp = (forward: boolean): JwtProvider => ({
  kind: "JwtProvider",
  name: "corp",
  namespace: "default",
  issuer: "https://corp.example",
  audiences: ["m"],
  algorithms: ["ES256"],
  forward,
  keys: { is: "inline", jwks: { keys: [{ ...ec.publicKey.export({ format: "jwk" }), kid: "a" }] } },
});
function token(claims: object = {}): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part({ alg: "ES256", kid: "a" })}.${part({ iss: "https://corp.example", aud: "m", exp: 9e9, ...claims })}`;
  return `${text}.${sign("sha256", Buffer.from(text), { key: ec.privateKey, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
}
const wantsToken = [allow("orders", [{ ...rules[0], jwt: { provider: "corp", claims: { scope: ["read"] } } }])];

/** A verification takes some turns. */
async function until(bench: ReturnType<typeof inboundBench>, done: () => boolean): Promise<void> {
  while (!done()) await bench.settle();
}

test("a token is verified once, then known; it goes on to the routee only where its provider says so", async () => {
  for (const forward of [true, false]) {
    const bench = inboundBench({ policies: wantsToken, providers: [corp(forward)] });
    const fields = ["authorization", `Bearer ${token({ scope: "read write" })}`];
    bench.ask({ fields });
    expect(bench.routee.requests).toHaveLength(0);
    await until(bench, () => bench.routee.requests.length > 0);
    bench.ask({ fields });
    expect(bench.routee.requests).toHaveLength(2);
    for (const { head } of bench.routee.requests)
      expect(fieldOf(head.fields, "authorization") !== undefined).toBe(forward);
  }
});

test("no token, a wrong one, one without the claim, and keys that cannot be had: each has its code", async () => {
  const bench = inboundBench({ policies: wantsToken, providers: [corp(true)] });
  const ask = async (fields: string[], at = bench) => {
    const exchange = at.ask({ fields });
    await until(at, () => exchange.answer !== undefined);
    return [codeOf(exchange), exchange.answer?.status];
  };
  expect(await ask([])).toEqual(["JWT_MISSING", 401]);
  expect(await ask(["authorization", `Bearer ${token()}x`])).toEqual(["JWT_INVALID", 401]);
  expect(await ask(["authorization", `Bearer ${token({ exp: 1 })}`])).toEqual(["JWT_INVALID", 401]);
  expect(await ask(["authorization", `Bearer ${token({ scope: "write" })}`])).toEqual(["DENIED", 403]);
  expect(await ask(["authorization", `Bearer ${token({ scope: "read" })}`, "authorization", "Bearer x"])).toEqual([
    "JWT_INVALID",
    401,
  ]);
  const remote = inboundBench({
    policies: wantsToken,
    providers: [{ ...corp(true), keys: { is: "uri", uri: "https://x.example/" } }],
  });
  expect(await ask(["authorization", `Bearer ${token({ scope: "read" })}`], remote)).toEqual([
    "JWT_KEYS_UNAVAILABLE",
    503,
  ]);
  expect(bench.routee.requests).toHaveLength(0);
});

test("a token causes no work for an identity that no rule could let in", () => {
  const bench = inboundBench({ policies: wantsToken, providers: [corp(true)] });
  const exchange = bench.ask({
    peer: { id: idOf("evil"), leaf: {} as never },
    fields: ["authorization", `Bearer ${token()}`],
  });
  expect(codeOf(exchange)).toBe("SERVICE_UNKNOWN");
});

test("a peer that leaves while its token is verified reaches nobody", async () => {
  const bench = inboundBench({ policies: wantsToken, providers: [corp(true)] });
  bench.ask({ fields: ["authorization", `Bearer ${token({ scope: "read" })}`] }).leave();
  for (let i = 0; i < 50; i++) await bench.settle();
  expect(bench.routee.requests).toHaveLength(0);
  expect(bench.context.openRequests.value).toBe(0);
});

test("more requests than the routee may get are refused, after the decision", () => {
  const bench = inboundBench({ options: { inboundRequestsMax: 2 } });
  const codes = [
    bench.ask(),
    bench.ask(),
    bench.ask(),
    bench.ask({ peer: { id: idOf("evil"), leaf: {} as never } }),
  ].map(codeOf);
  expect(codes).toEqual([undefined, undefined, "LIMIT_REQUESTS", "SERVICE_UNKNOWN"]);
  bench.routee.requests[0]?.respond(200);
  expect(codeOf(bench.ask())).toBeUndefined();
});

test("one identity, over however many connections, leaves requests and tunnels for the next one: LIMIT_PEER", () => {
  const bench = inboundBench({
    policies: [allow("orders", [{ from: [{ services: ["web.default", "evil.default"] }] }])],
    options: { inboundRequestsMax: 8, tunnelsMax: 8 },
  });
  const calls = (asked: Asked): (string | undefined)[] => Array.from({ length: 9 }, () => codeOf(bench.ask(asked)));
  const served = (codes: readonly (string | undefined)[]): number => codes.filter((code) => code === undefined).length;
  const first = calls({ peer: evil });
  expect(first).toEqual([...Array.from({ length: 6 }, () => undefined), "LIMIT_PEER", "LIMIT_PEER", "LIMIT_PEER"]);
  expect(calls({ peer: web })[0]).toBeUndefined();
  for (const request of bench.routee.requests) request.respond(200);
  expect(codeOf(bench.ask({ peer: evil }))).toBeUndefined();
  // Once it is open, a tunnel is no request any more.
  const open = (peer: typeof web): string | undefined => {
    const exchange = bench.ask({ ...connect, peer });
    if (exchange.answer === undefined) bench.tcp.last.respond(200, [], false);
    return codeOf(exchange);
  };
  const tunnels = Array.from({ length: 8 }, () => open(evil));
  expect([served(tunnels), tunnels[7], open(web)]).toEqual([6, "LIMIT_PEER", undefined]);
  expect(bench.metrics.renderPrometheus()).toMatch(/reason="LIMIT_PEER"\} 5\n/);
});

test("what a peer's share is counted by is there while it is connected, and no longer", () => {
  const peers = new PerPeer(() => ({}));
  const [a, b] = [peers.join("a"), peers.join("a")];
  expect([a.of === b.of, peers.join("b").of === a.of, peers.size]).toEqual([true, false, 2]);
  a.leave();
  expect(peers.join("a").of).toBe(a.of);
  b.leave();
  expect(peers.size).toBe(2);
});

test("requests whose tokens nobody has verified yet are limited too, and strangers learn nothing of it", () => {
  const bench = inboundBench({
    options: { inboundRequestsMax: 2 },
    policies: wantsToken,
    providers: [{ ...corp(true), keys: { is: "uri", uri: "https://x.example/" } }],
  });
  const fields = (): string[] => ["authorization", `Bearer ${token({ scope: "read" })}`];
  const codes = [
    bench.ask({ fields: fields() }),
    bench.ask({ fields: fields() }),
    bench.ask({ fields: fields() }),
    bench.ask({ fields: fields(), peer: { id: idOf("evil"), leaf: {} as never } }),
  ].map(codeOf);
  expect(codes).toEqual([undefined, undefined, "LIMIT_REQUESTS", "SERVICE_UNKNOWN"]);
});

test("a kept connection that the routee closed under a GET is replaced once; a POST is lost; a dead routee is CONNECT_FAILED", async () => {
  const bench = inboundBench();
  const lose = async (method: string, kind: "lost" | "unprocessed", times: number): Promise<FakeServerExchange> => {
    const exchange = bench.ask({ method });
    for (let i = 0; i < times; i++) {
      [...bench.routee.under].at(-1)?.lose(kind);
      await bench.settle();
    }
    return exchange;
  };
  const again = await lose("GET", "lost", 1);
  bench.routee.last.respond(204);
  expect(again.answer?.status).toBe(204);
  expect(codeOf(await lose("POST", "lost", 1))).toBe("UPSTREAM_LOST");
  expect(codeOf(await lose("POST", "unprocessed", 2))).toBe("CONNECT_FAILED");
  expect(codeOf(await lose("GET", "lost", 2))).toBe("UPSTREAM_LOST");
});

test("a policy in mode AUDIT decides nothing, is counted each time and logged once a second", () => {
  const audit = { ...allow("orders", [{}], "watch"), action: "DENY" as const, mode: "AUDIT" as const };
  const bench = inboundBench({ policies: [audit, allow("orders", rules)] });
  for (let i = 0; i < 5; i++) expect(codeOf(bench.ask())).toBeUndefined();
  expect(bench.lines).toHaveLength(1);
  bench.clock.advance(1_000);
  bench.ask();
  expect(bench.lines).toHaveLength(2);
  expect(bench.metrics.renderPrometheus()).toContain(
    'hauberk_policy_audits_total{side="inbound",policy="default/watch"} 6',
  );
});

test("gRPC hears of a refusal in its own way", () => {
  const bench = inboundBench({ policies: [allow("orders", [{ ...rules[0], to: [{ methods: ["PUT"] }] }])] });
  const exchange = bench.ask({ method: "POST", fields: ["content-type", "application/grpc"], body: true });
  expect([exchange.answer?.status, fieldOf(exchange.answer?.fields ?? [], "grpc-status"), exchange.over]).toEqual([
    200,
    "7",
    "ended",
  ]);
});

// Nothing that arrives ends anything but itself.

const oddText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 40 }),
  fc.constantFrom("", "*", "/", "//", "orders", "a:b:c", "[::1]", "/%", "/..", "\0", "Bearer a.b.c", "%2f"),
);

test("random requests from a peer never throw, and always end", () => {
  fc.assert(
    fc.property(
      fc.record({
        method: oddText,
        authority: oddText,
        path: oddText,
        fields: fc.array(
          fc.tuple(
            fc.oneof(oddText, fc.constantFrom("Authorization", "traceparent", "x-hauberk-timeout-ms", "te")),
            oddText,
          ),
          { maxLength: 6 },
        ),
        body: fc.boolean(),
        remoteAddress: oddText,
      }),
      ({ fields, ...asked }) => {
        const bench = inboundBench({
          policies: wantsToken.concat(allow("orders", rules, "open")),
          providers: [corp(false)],
        });
        const exchange = bench.ask({ ...asked, fields: fields.flat() });
        if (asked.body) {
          exchange.send("x");
          exchange.finish(fields.flat());
        }
        const [sent] = bench.routee.requests as (FakeClientExchange | undefined)[];
        sent?.respond(200, fields.flat(), false);
        sent?.finish(fields.flat());
        if (exchange.over === "no") exchange.leave();
        expect(bench.context.openRequests.value).toBe(0);
      },
    ),
    { numRuns: 500 },
  );
});

// DESIGN, section 6: the caller never refuses what the callee would have allowed.

const writtenRule: fc.Arbitrary<Rule> = fc.record(
  {
    from: fc.array(
      fc.record(
        {
          services: fc.constantFrom(["web.default"], ["x.default"]),
          addresses: fc.constantFrom(["10.0.0.0/8"], ["192.168.0.0/16"]),
          notServices: fc.constantFrom(["x.default"], ["web.default"]),
        },
        { requiredKeys: [] },
      ),
      { minLength: 1, maxLength: 2 },
    ),
    to: fc.array(
      fc.record(
        {
          methods: fc.constantFrom(["GET"], ["POST", "PUT"]),
          paths: fc.constantFrom(["/a/*"], ["/b"]),
          notPaths: fc.constantFrom(["/a/x"]),
          hosts: fc.constantFrom(["orders"], ["*.mesh"]),
          ports: fc.constantFrom([8080], [9090]),
          headers: fc.constantFrom({ "x-role": ["admin"] }, { via: ["*"] }),
        },
        { requiredKeys: [] },
      ),
      { minLength: 1, maxLength: 2 },
    ),
    jwt: fc.constantFrom({ provider: "corp" }, { provider: "gone" }),
  },
  { requiredKeys: [] },
);

/** Half of the rules allow much, so that many calls get through. */
const someRule = fc.oneof(
  writtenRule,
  fc.constantFrom<Rule>({ from: [{ services: ["web.default"] }] }, { to: [{ methods: ["GET"] }] }),
);

test("random policies and calls: what the callee allows the caller has not refused", async () => {
  let allowed = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.tuple(
          fc.constantFrom<"ALLOW" | "DENY">("ALLOW", "ALLOW", "DENY"),
          fc.array(someRule, { minLength: 1, maxLength: 3 }),
        ),
        { maxLength: 4 },
      ),
      fc.record({
        method: fc.constantFrom("GET", "POST"),
        authority: fc.constantFrom("orders", "orders:9090", "Orders.Default.Mesh."),
        path: fc.constantFrom("/a/x", "/a//y", "/b", "/%61/z"),
        role: fc.boolean(),
        signed: fc.constantFrom("none", "good", "bad"),
      }),
      async (written, { role, signed, ...asked }) => {
        const policies = written.map(([action, of], i): AuthorizationPolicy => ({
          ...allow("orders", of, `p${i}`),
          action,
        }));
        const fields = role ? ["X-Role", "admin"] : [];
        if (signed !== "none") fields.push("Authorization", `Bearer ${token()}${signed === "bad" ? "x" : ""}`);
        const ports = [8080, 9090].map((port) => ({ name: `p${port}`, port, protocol: "http" as const }));
        const caller = outboundBench();
        caller.publish([
          [
            "service/orders.default",
            {
              id: idOf("orders").text,
              policies: reduceFor(policies, idOf("web")),
              endpoints: [endpoint("a", { ports })],
            },
          ],
          ["provider/default/corp", corp(true)],
        ]);
        const sentBy = caller.ask({ ...asked, fields });
        while (sentBy.answer === undefined && caller.opened[0]?.connection.requests.length !== 1) await caller.settle();
        const hop = caller.opened[0]?.connection.requests[0]?.head;
        const callee = inboundBench({ policies, providers: [corp(true)] });
        // A caller that refused sent nothing: the callee is asked as if it had.
        const direct = callee.ask({
          ...asked,
          fields: hop?.fields ?? [
            ...fields.map((text, i) => (i % 2 === 0 ? text.toLowerCase() : text)),
            "via",
            "1.1 hauberk",
          ],
          path: hop?.path ?? asked.path,
        });
        const reached = (): number => callee.routee.requests.length + callee.other.requests.length;
        while (direct.answer === undefined && reached() === 0) await callee.settle();
        if (reached() === 1) {
          allowed++;
          expect(codeOf(sentBy)).toBeUndefined();
        }
      },
    ),
    { numRuns: 400 },
  );
  expect(allowed).toBeGreaterThan(30);
}, 30_000);

test.each(["orders", "Orders", "orders.default", "orders.default.mesh", "ORDERS.default.mesh."])(
  "a DENY for one name of the service cannot be got around by calling it %s, and an ALLOW for one holds for it",
  (authority) => {
    for (const hosts of [["orders"], ["orders.default"], ["orders.default.mesh"]]) {
      const only = inboundBench({ policies: [allow("orders", [{ to: [{ hosts }] }])] });
      only.ask({ authority });
      expect(only.routee.last.head.authority).toBe(authority.toLowerCase().replace(/\.$/, ""));
      const deny = { ...allow("orders", [{ to: [{ hosts }] }], "deny"), action: "DENY" as const };
      const both = inboundBench({ policies: [allow("orders", rules), deny] });
      expect(codeOf(both.ask({ authority }))).toBe("DENIED");
      const not = inboundBench({ policies: [allow("orders", [{ to: [{ notHosts: hosts }] }])] });
      expect(codeOf(not.ask({ authority }))).toBe("DENIED");
    }
  },
);

test("TRACE is refused before anything is decided", () => {
  const bench = inboundBench();
  const exchange = bench.ask({ method: "TRACE" });
  expect([exchange.answer?.status, codeOf(exchange)]).toEqual([501, "METHOD_UNSUPPORTED"]);
  expect(bench.routee.requests).toEqual([]);
});

const forWeb = (more: Partial<Rule> = {}): AuthorizationPolicy[] => [allow("orders", [{ ...rules[0], ...more }])];
const own = (policies: readonly AuthorizationPolicy[], providers: readonly JwtProvider[] = [corp(true)]) =>
  buildSnapshot([
    ["own", { policies }],
    ...providers.map((one) => [`provider/${one.namespace}/${one.name}`, one] as const),
  ]);

test("a policy that now denies ends what it once allowed: tunnels, WebSockets, streams; and nothing else", async () => {
  const bench = inboundBench();
  const tunnel = bench.ask({ ...connect });
  bench.tcp.last.respond(200, [], false);
  const socket = bench.ask({ upgrade: "websocket", body: true, path: "/rooms" });
  bench.routee.last.respond(101, [], false);
  const stream = bench.ask({ path: "/watch" });
  const streaming = bench.routee.last;
  streaming.respond(200, [], false);
  const grpc = bench.ask({ method: "POST", body: true, path: "/s/m", fields: ["content-type", "application/grpc"] });
  const calling = bench.routee.last;
  calling.respond(200, ["content-type", "application/grpc"], false);
  const all = [tunnel, socket, stream, grpc];
  expect(bench.context.standing.size).toBe(4);
  // Another caller comes, and a port and its paths are named: whoever is here may still be.
  const wide: Rule[] = [
    { from: [{ services: ["web.default", "shop.default"] }], to: [{ ports: [6379] }, { paths: ["/*"] }] },
  ];
  bench.snapshot.publish(own([allow("orders", wide)]));
  await bench.settle();
  expect(all.map(({ over }) => over)).toEqual(["no", "no", "no", "no"]);
  bench.snapshot.publish(own(forWeb({ to: [{ paths: ["/watch"] }] })));
  await bench.settle();
  expect(all.map(({ over, loss }) => [over, loss?.kind])).toEqual([
    ["aborted", "cancelled"],
    ["aborted", "cancelled"],
    ["no", undefined],
    ["ended", undefined],
  ]);
  expect([fieldOf(grpc.trailers ?? [], "grpc-status"), fieldOf(grpc.trailers ?? [], "x-hauberk-code")]).toEqual([
    "7",
    "DENIED",
  ]);
  expect([bench.tcp.last.aborted?.kind, calling.aborted?.kind, streaming.aborted]).toEqual([
    "cancelled",
    "cancelled",
    undefined,
  ]);
  streaming.finish();
  expect(stream.over).toBe("ended");
  expect([bench.context.openTunnels.value, bench.context.openRequests.value, bench.context.standing.size]).toEqual([
    0, 0, 0,
  ]);
});

test("what only waits for its answer has a drain's time to get it, and is refused then", async () => {
  const bench = inboundBench({ options: { drainMs: 5_000 } });
  const quick = bench.ask({ method: "POST", body: true });
  const { last } = bench.routee;
  const slow = bench.ask({ method: "POST", body: true, path: "/upload" });
  bench.snapshot.publish(own([]));
  await bench.settle();
  last.respond(200, [], true);
  expect([quick.answer?.status, slow.answer]).toEqual([200, undefined]);
  bench.clock.advance(5_000);
  await bench.settle();
  expect([slow.answer?.status, codeOf(slow)]).toEqual([404, "SERVICE_UNKNOWN"]);
  expect(bench.context.standing.size).toBe(0);
});

test("a stream whose token has expired since is not cut by a policy that still allows it, and is by another claim", async () => {
  const expiring = corp(false);
  const bench = inboundBench({ policies: wantsToken, providers: [expiring] });
  const expiresAt = Math.floor(bench.clock.wallMs() / 1_000) + 60;
  const stream = bench.ask({ fields: ["authorization", `Bearer ${token({ scope: "read", exp: expiresAt })}`] });
  await until(bench, () => bench.routee.requests.length > 0);
  bench.routee.last.respond(200, [], false);
  bench.clock.advance(3_600_000);
  const claims = (scope: string): AuthorizationPolicy[] =>
    forWeb({ jwt: { provider: "corp", claims: { scope: [scope] } }, to: [{ methods: ["GET"] }] });
  bench.snapshot.publish(
    buildSnapshot(
      [
        ["own", { policies: claims("read") }],
        ["provider/default/corp", expiring],
      ],
      bench.snapshot.read(),
    ),
  );
  for (let i = 0; i < 20; i++) await bench.settle();
  expect(stream.over).toBe("no");
  bench.snapshot.publish(
    buildSnapshot(
      [
        ["own", { policies: claims("write") }],
        ["provider/default/corp", expiring],
      ],
      bench.snapshot.read(),
    ),
  );
  await until(bench, () => stream.over !== "no");
  expect(stream.over).toBe("aborted");
});

test("a call whose token was verified while policy changed is judged by what came meanwhile", async () => {
  const bench = inboundBench({ policies: wantsToken, providers: [corp(true)] });
  const exchange = bench.ask({
    body: true,
    fields: ["authorization", `Bearer ${token({ scope: "read", jti: "late" })}`],
  });
  bench.snapshot.publish(own([]));
  await until(bench, () => exchange.answer !== undefined);
  expect(codeOf(exchange)).toBe("SERVICE_UNKNOWN");
});

test("a stream of before a policy wanted a token goes on with the token that it brought, and ends without", async () => {
  const bench = inboundBench({ providers: [corp(true)] });
  const [brought, none] = [["authorization", `Bearer ${token({ scope: "read" })}`], []].map((fields) => {
    const exchange = bench.ask({ fields });
    bench.routee.last.respond(200, [], false);
    return exchange;
  });
  bench.snapshot.publish(own(wantsToken));
  await until(bench, () => none?.over !== "no");
  for (let i = 0; i < 20; i++) await bench.settle();
  expect([brought?.over, none?.over]).toEqual(["no", "aborted"]);
});

test("who may not call in any case is told the same of every port and every name: none can be found by asking", () => {
  const bench = inboundBench();
  const asked: Asked[] = [
    { authority: "orders" },
    { authority: "orders:9090" },
    { authority: "orders:22" },
    { authority: "ledger" },
    { authority: "10.0.0.1:8080" },
    connect,
    { ...connect, authority: "orders:22" },
    { ...connect, authority: "orders:8080" },
  ];
  const answers = asked.map((one) => {
    const exchange = bench.ask({ ...one, peer: evil, fields: ["x-request-id", "same"] });
    return [exchange.answer, exchange.text()];
  });
  for (const answer of answers) expect(answer).toEqual(answers[0]);
  expect(answers[0]?.[0]).toMatchObject({ status: 404 });
});

test("a stream that nobody can judge for want of keys goes on for a drain's time, and then no more", async () => {
  const bench = inboundBench({ options: { drainMs: 5_000 } });
  const stream = bench.ask({ fields: ["authorization", `Bearer ${token({ scope: "read" })}`] });
  bench.routee.last.respond(200, [], false);
  const far: JwtProvider = { ...corp(true), keys: { is: "uri", uri: "https://corp.example/keys" } };
  bench.snapshot.publish(own(wantsToken, [far]));
  for (let i = 0; i < 50; i++) await bench.settle();
  expect(stream.over).toBe("no");
  bench.clock.advance(5_000);
  await until(bench, () => stream.over !== "no");
  expect(stream.over).toBe("aborted");
});

test("a request that the routee has is never told that nobody took it, where nobody can judge it any more", async () => {
  const far: JwtProvider = { ...corp(true), keys: { is: "uri", uri: "https://corp.example/keys" } };
  const asked = { method: "POST", fields: ["authorization", `Bearer ${token({ scope: "read" })}`] };
  const later = inboundBench({ options: { drainMs: 5_000 } });
  const sentBefore = later.ask(asked);
  later.snapshot.publish(own(wantsToken, [far]));
  for (let i = 0; i < 50; i++) await later.settle();
  later.clock.advance(5_000);
  await until(later, () => sentBefore.over !== "no");
  // And at once, where keys change as the token is verified.
  const once = inboundBench({ policies: wantsToken, providers: [corp(true)] });
  const sentThen = once.ask(asked);
  once.snapshot.publish(own(wantsToken, [far]));
  await until(once, () => sentThen.over !== "no");
  for (const exchange of [sentBefore, sentThen])
    expect([exchange.answer?.status, codeOf(exchange)]).toEqual([502, "UPSTREAM_LOST"]);
});

test("what is thrown while a stream is judged again costs that stream, not the process", async () => {
  const faults: unknown[] = [];
  const bench = inboundBench({ onFault: (thrown) => faults.push(thrown) });
  const [broken, other] = ["/a", "/b"].map((path) => {
    const exchange = bench.ask({ path });
    bench.routee.last.respond(200, [], false);
    return exchange;
  });
  Object.defineProperty(broken?.head, "fields", {
    get: () => {
      throw new Error("a bug");
    },
  });
  bench.snapshot.publish(own(forWeb({ to: [{ methods: ["GET"] }] })));
  await bench.settle();
  expect([broken?.over, other?.over]).toEqual(["aborted", "no"]);
  expect(faults).toMatchObject([{ message: "a bug" }]);
});

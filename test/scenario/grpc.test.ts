import { readFileSync } from "node:fs";
import { join } from "node:path";
import { credentials, status } from "@grpc/grpc-js";
import { afterAll, beforeAll, expect, test } from "vitest";
import { InteropClient, methods, serveInterop, type InteropServer } from "../support/grpc-interop.ts";
import { eventually, Mesh, metricsOf, sumOf, type Started } from "../support/mesh.ts";
import { allow, applyText, freePort } from "./routees.ts";

/** gRPC through a mesh of real processes: `--app grpc:PORT` at one end, and at the other every way in that a program has. */
let mesh: Mesh;
let first: InteropServer;
let second: InteropServer;
let web: Started;
/** `--to orders` of a sidecar alone, and the guarded listener that `hauberk run` tells its program of. */
let toPort = 0;
let proxyUrl: URL;
const ends: (() => void)[] = [];

beforeAll(async () => {
  mesh = await Mesh.create();
  await mesh.control();
  [first, second] = await Promise.all([serveInterop(), serveInterop()]);
  toPort = await freePort();
  const told = join(mesh.folder, "told");
  const program = `require("node:fs").writeFileSync(${JSON.stringify(told)}, process.env.http_proxy); setInterval(() => {}, 1000);`;
  const token = await mesh.token("web");
  [web] = await Promise.all([
    mesh.sidecar("web", ["--to", `orders=${toPort}`, "--instance", "2"]),
    mesh.sidecar("orders", ["--app", `grpc:${first.port}`]),
    mesh.sidecar("orders", ["--app", `api=h2:${second.port}`, "--instance", "2"]),
    mesh.start(["run", "--service", "web", "--token-file", token], { program: [process.execPath, "-e", program] }),
    applyText(mesh, allow("web", "orders")),
  ]);
  proxyUrl = await eventually("the program told its proxy", 5_000, () => {
    try {
      return new URL(readFileSync(told, "utf8"));
    } catch {
      return undefined;
    }
  });
  const caller = clientOf(toPort, {});
  await eventually("both instances are called", 15_000, async () => {
    await caller.unary(methods.emptyCall);
    return first.calls.length > 0 && second.calls.length > 0 ? true : undefined;
  });
});

afterAll(async () => {
  for (const end of ends) end();
  await mesh.end();
  first.end();
  second.end();
});

function clientOf(port: number, options: Record<string, string | number>): InteropClient {
  const client = new InteropClient(`127.0.0.1:${port}`, credentials.createInsecure(), options);
  ends.push(() => client.close());
  return client;
}

test("a service's own port carries gRPC as it carries everything: the client needs to know nothing", async () => {
  const client = clientOf(toPort, {});
  const before = [first.calls.length, second.calls.length];
  for (let i = 0; i < 10; i++) expect((await client.unary(methods.emptyCall)).code).toBe(status.OK);
  expect([first.calls.length, second.calls.length].map((calls, i) => calls - (before[i] as number))).toEqual([5, 5]);
  const { call, next, ended } = client.duplex();
  const came = next();
  call.write({ responseParameters: [{ size: 3 }] });
  expect(await came).toBe(3);
  call.end();
  expect((await ended).code).toBe(status.OK);
  const metrics = await metricsOf(web);
  expect(sumOf(metrics, "hauberk_grpc_calls_total", ['side="outbound"', 'grpc_status="0"'])).toBeGreaterThan(10);
});

test("the listener of hauberk run takes h2c with its secret in each call, and without it none", async () => {
  const client = clientOf(Number(proxyUrl.port), { "grpc.default_authority": "orders" });
  const bare = await client.unary(methods.emptyCall);
  expect([bare.code, bare.trailer.get("x-hauberk-code")]).toEqual([status.UNAUTHENTICATED, ["PROXY_SECRET_WRONG"]]);
  const secret = Buffer.from(decodeURIComponent(`${proxyUrl.username}:${proxyUrl.password}`)).toString("base64");
  const before = first.calls.length + second.calls.length;
  const wish = (value: string) => ({ metadata: { "proxy-authorization": `Basic ${value}` } });
  expect((await client.unary(methods.emptyCall, {}, wish(`${secret}x`))).code).toBe(status.UNAUTHENTICATED);
  expect((await client.unary(methods.emptyCall, {}, wish(secret))).code).toBe(status.OK);
  // One good call opens nothing for the next one on the same connection.
  expect((await client.unary(methods.emptyCall)).code).toBe(status.UNAUTHENTICATED);
  const calls = [...first.calls, ...second.calls];
  expect(calls.length - before).toBe(1);
  expect(calls.flatMap(({ metadata }) => metadata.get("proxy-authorization"))).toEqual([]);
});

test("a gRPC client that knows http_proxy goes through CONNECT, by the name and port of the service", async () => {
  const before = process.env["grpc_proxy"];
  process.env["grpc_proxy"] = proxyUrl.href;
  const client = new InteropClient(`orders:${first.port}`, credentials.createInsecure(), {});
  ends.push(() => client.close());
  const got = client.unary(methods.unaryCall, { responseSize: 50_000 });
  if (before === undefined) delete process.env["grpc_proxy"];
  else process.env["grpc_proxy"] = before;
  expect(await got).toMatchObject({ code: status.OK, message: { payload: { body: Buffer.alloc(50_000) } } });
  const { call, next, ended } = client.duplex();
  const came = next();
  call.write({ responseParameters: [{ size: 3 }] });
  expect(await came).toBe(3);
  call.end();
  expect((await ended).code).toBe(status.OK);
});

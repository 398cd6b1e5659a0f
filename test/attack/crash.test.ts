import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import * as fc from "fast-check";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ask, Mesh, type Started } from "../support/mesh.ts";
import { rawFrame, rawPreface } from "../support/http2-raw.ts";
import { makeTestPki } from "../support/pki.ts";
import { ok, RawRoutee } from "../support/raw-routee.ts";
import { dialInbound, twoProxies, type TwoProxies } from "../support/two-proxies.ts";
import { served, webCallsOrders, type Routee } from "../scenario/routees.ts";
import { requestStream, responseStream } from "../fuzz/http1-streams.ts";
import { frameStream } from "../fuzz/http2-frames.ts";
import { mutated } from "../fuzz/target.ts";

/** Row 45: no request, answer or garbage ends a process, leaves an error that nobody handles, or grows it without bound. */

const seed = 20_261_123;
const settings = rawFrame(4, 0, 0);
const http2Stream = mutated(frameStream).map((bytes) => Buffer.concat([rawPreface, settings, bytes]));
const noise = fc.uint8Array({ maxLength: 2_000 }).map((bytes) => Buffer.from(bytes));

function drawn(arbitrary: fc.Arbitrary<Buffer>, count: number): Buffer[] {
  return fc.sample(arbitrary, { seed, numRuns: count });
}

/** Writes, half-closes or cuts, and waits until the other side is through. */
function say(socket: Socket, bytes: Buffer): Promise<void> {
  return new Promise((resolve) => {
    socket.on("error", () => undefined);
    socket.once("close", () => resolve());
    socket.resume();
    socket.setTimeout(200, () => socket.destroy());
    if (bytes.length % 4 === 0) socket.write(bytes, () => socket.destroy());
    else socket.end(bytes);
  });
}

async function each(inputs: readonly Buffer[], open: () => Socket | Promise<Socket>): Promise<void> {
  const rest = [...inputs];
  const worker = async (): Promise<void> => {
    for (let input = rest.pop(); input !== undefined; input = rest.pop()) await say(await open(), input);
  };
  await Promise.all(Array.from({ length: 16 }, worker));
}

describe("in this process", () => {
  let routee: RawRoutee;
  let mesh: TwoProxies;
  const unhandled: unknown[] = [];
  const note = (thrown: unknown): void => void unhandled.push(thrown);

  beforeAll(async () => {
    routee = await RawRoutee.start();
    const resilience = { breakerFailuresMax: 1_000, breakerRequestsMin: 100_000 };
    mesh = await twoProxies(await makeTestPki({ wallMs: Date.now() }), {
      routee: routee.port,
      options: { resilience, proxy: { requestTimeoutMs: 100 } },
    });
  });

  beforeEach(() => {
    process.on("uncaughtException", note);
    process.on("unhandledRejection", note);
  });

  afterEach(async () => {
    expect((await ask({ port: mesh.web.proxy.outboundPort, host: "orders", path: "/" })).status).toBe(200);
    process.off("uncaughtException", note);
    process.off("unhandledRejection", note);
    expect(unhandled.splice(0)).toEqual([]);
    // What was caught is a bug all the same.
    for (const { metrics } of [mesh.web, mesh.orders])
      expect(metrics.renderPrometheus()).not.toMatch(/hauberk_faults_total\{.*\} [1-9]/);
    routee.forget();
  });

  afterAll(async () => {
    await mesh.end();
    routee.close();
  });

  test("no bytes at the outbound listener leave an error that nobody handles (row 45)", async () => {
    const port = mesh.web.proxy.outboundPort;
    await each([...drawn(requestStream, 400), ...drawn(http2Stream, 400), ...drawn(noise, 100)], () =>
      connect(port, "127.0.0.1"),
    );
  });

  test("no bytes of a proven peer at the inbound listener do, over either protocol (row 45)", async () => {
    await each(drawn(http2Stream, 200), () => dialInbound(mesh, "web", "h2"));
    await each(drawn(requestStream, 100), () => dialInbound(mesh, "web", "http/1.1"));
  });

  test("no bytes that a routee answers do, whole or cut (row 45)", async () => {
    const answers = drawn(responseStream, 300);
    routee.answer = (_head, peer) => {
      const bytes = answers.pop() ?? Buffer.alloc(0);
      peer.socket.write(bytes.subarray(0, 20));
      peer.socket.end(bytes.subarray(20));
      return undefined;
    };
    const port = mesh.web.proxy.outboundPort;
    const question = Buffer.from("GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n\n");
    await each(
      Array.from({ length: 300 }, () => question),
      () => connect(port, "127.0.0.1"),
    );
    routee.answer = () => ok("ok");
  });

  test("a reset in every moment of a call does not, with any code (row 45)", async () => {
    const get = Buffer.from([0x82, 0x87, 0x84, 0x41, 6, ...Buffer.from("orders")]);
    const head = (id: number): Buffer => rawFrame(1, 5, id, get);
    const inputs: Buffer[] = [];
    for (let code = 0; code <= 14; code++) {
      const reset = Buffer.alloc(4);
      reset.writeUInt32BE(code);
      inputs.push(Buffer.concat([rawPreface, settings, head(1), rawFrame(3, 0, 1, reset), head(3)]));
      inputs.push(
        Buffer.concat([
          rawPreface,
          settings,
          rawFrame(1, 4, 1, get),
          rawFrame(0, 0, 1, "00"),
          rawFrame(3, 0, 1, reset),
        ]),
      );
    }
    await each(inputs, () => dialInbound(mesh, "web", "h2"));
    await each(inputs, () => connect(mesh.web.proxy.outboundPort, "127.0.0.1"));
  });
});

describe("of real processes", () => {
  let mesh: Mesh;
  let control: Started;
  let web: Started;
  let orders: Started;
  let routee: Routee;

  beforeAll(async () => {
    mesh = await Mesh.create();
    const unlimited = {
      HAUBERK_CONTROL_ADDRESS_PER_SECOND: "100000",
      HAUBERK_CONTROL_ADDRESS_BURST_MAX: "100000",
    };
    ({ control, web, orders, routee } = await webCallsOrders(mesh, unlimited));
  });

  afterAll(async () => {
    await mesh.end();
    await routee.close();
  });

  test("none ends, and none grows by more than 64 MB, by garbage at its outbound, inbound, admin and enrollment ports (row 45)", async () => {
    const doors: [string, () => Socket][] = [
      ["outbound", () => connect(Number(web.ready["outbound"]), "127.0.0.1")],
      ["inbound", () => connect(Number(orders.ready["inbound"]), "127.0.0.1")],
      ["admin", () => connect(String(web.ready["admin"]))],
      ["enrollment", () => connect(mesh.ports.enrollment, "127.0.0.1")],
      ["mesh", () => connect(mesh.ports.mesh, "127.0.0.1")],
    ];
    const inputs = [...drawn(requestStream, 150), ...drawn(http2Stream, 150), ...drawn(noise, 100)];
    // The first round loads what is loaded once.
    for (const [, open] of doors) await each(inputs.slice(0, 60), open);
    const before = [control, web, orders].map(residentOf);
    for (const [door, open] of doors) {
      await each(inputs, open);
      for (const { child } of [control, web, orders])
        expect([door, child.exitCode, child.signalCode]).toEqual([door, null, null]);
    }
    await served(web);
    const grown = [control, web, orders].map((started, i) => residentOf(started) - (before[i] ?? 0));
    expect(Math.max(...grown)).toBeLessThan(64 * 1_048_576);
    for (const started of [control, web, orders])
      expect(started.output()).not.toMatch(/"code":"BUG"|Unhandled|uncaught/i);
  });

  function residentOf({ pid }: Started): number {
    return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) * 1024;
  }
});

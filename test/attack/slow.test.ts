import { once } from "node:events";
import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { defaultsOf } from "../../src/base/options.ts";
import * as frames from "../../src/http/http2/frames.ts";
import type { Loss } from "../../src/transport/exchange.ts";
import { http2Options } from "../../src/transport/http2-options.ts";
import { http1Options } from "../../src/transport/options.ts";
import { servePlain } from "../../src/transport/plain-server.ts";
import { FakeSocket } from "../fuzz/fake-socket.ts";
import { rawFields, rawFrame, rawPreface } from "../support/http2-raw.ts";
import { ManualClock } from "../support/manual-clock.ts";
import { makeTestPki } from "../support/pki.ts";
import { RawRoutee } from "../support/raw-routee.ts";
import { dialInbound, twoProxies, type TwoProxies } from "../support/two-proxies.ts";

/** Row 32: who says little, and slowly, holds a place for no longer than honest people need. The clock is moved by hand. */

interface Slow {
  readonly clock: ManualClock;
  readonly socket: FakeSocket;
  readonly losses: Loss[];
  readonly handled: () => number;
  /** What it was told so far. */
  said(): string;
}

/** A listener of the workload, or, from the protocol on, of a peer: the engines are the same. */
function listener(): Slow {
  const clock = new ManualClock();
  const socket = new FakeSocket();
  const losses: Loss[] = [];
  let handled = 0;
  servePlain(
    socket.socket,
    { remoteAddress: "127.0.0.1", localPort: 1, peer: undefined },
    (exchange) => {
      handled++;
      exchange.listen({
        data: (chunk) => exchange.consume(chunk.length),
        end: () => undefined,
        aborted: (loss) => losses.push(loss),
        drained: () => undefined,
      });
    },
    { clock, http1: defaultsOf(http1Options), http2: defaultsOf(http2Options) },
  );
  return {
    clock,
    socket,
    losses,
    handled: () => handled,
    said: () => Buffer.concat(socket.written).toString("latin1"),
  };
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Says one byte of a text each second, until nobody listens or it is over; gives the seconds that it took. */
async function drip({ clock, socket }: Slow, bytes: Buffer, seconds: number): Promise<number> {
  for (let second = 0; second < seconds; second++) {
    if (!socket.writable) return second;
    socket.say(bytes.subarray(second % bytes.length, (second % bytes.length) + 1));
    clock.advance(1_000);
    await turn();
  }
  return socket.writable ? Infinity : seconds;
}

const begun2 = Buffer.concat([rawPreface, rawFrame(frames.SETTINGS, 0, 0), rawFrame(frames.SETTINGS, 1, 0)]);
const post2 = rawFields([":method", "POST", ":scheme", "http", ":path", "/", ":authority", "orders"]);

describe("a head that drips in ends within ten seconds and a tick (row 32)", () => {
  test("in HTTP/1.1, with 408", async () => {
    const slow = listener();
    expect(await drip(slow, Buffer.from(`GET / HTTP/1.1\r\nHost: a\r\nX: ${"x".repeat(100)}`), 60)).toBeLessThanOrEqual(
      12,
    );
    expect(slow.said()).toMatch(/^HTTP\/1\.1 408 /);
    expect(slow.handled()).toBe(0);
  });

  test("in HTTP/2, where a header block does not become whole", async () => {
    const slow = listener();
    slow.socket.say(Buffer.concat([begun2, rawFrame(frames.HEADERS, 0, 1, post2)]));
    expect(await drip(slow, rawFrame(frames.CONTINUATION, 0, 1, Buffer.alloc(60)), 60)).toBeLessThanOrEqual(12);
    expect(slow.handled()).toBe(0);
  });

  test("in a preface of HTTP/2 that is never whole", async () => {
    const slow = listener();
    expect(await drip(slow, rawPreface.subarray(0, 12), 12)).toBeLessThanOrEqual(12);
    expect(slow.socket.destroyed).toBe(true);
  });

  test("in a preface of HTTP/2 that is whole, and settings that never come or are never acknowledged", async () => {
    for (const first of [rawPreface, Buffer.concat([rawPreface, rawFrame(frames.SETTINGS, 0, 0)])]) {
      const slow = listener();
      slow.socket.say(first);
      expect(await drip(slow, Buffer.from([0]), 60)).toBeLessThanOrEqual(12);
    }
  });

  test("in a pipelined request behind a whole one", async () => {
    const slow = listener();
    slow.socket.say(Buffer.from("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET"));
    await turn();
    expect(slow.handled()).toBe(1);
    // The first has no answer yet: nothing of the second is read, and nothing is held but these bytes.
    expect(slow.socket.isPaused()).toBe(true);
  });
});

describe("a body below 64 bytes a second is given up before its answer begins (row 32)", () => {
  test("in HTTP/1.1, with 408", async () => {
    const slow = listener();
    slow.socket.say(Buffer.from("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"));
    expect(await drip(slow, Buffer.from("x"), 120)).toBeLessThanOrEqual(62);
    expect(slow.losses).toEqual([{ kind: "cancelled", because: "the client sends its body too slowly" }]);
    expect(slow.said()).toMatch(/^HTTP\/1\.1 408 /);
  });

  test("in HTTP/1.1 in chunks of a byte, their lines counted", async () => {
    const slow = listener();
    slow.socket.say(Buffer.from("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"));
    expect(await drip(slow, Buffer.from("1\r\nx\r\n"), 120)).toBeLessThanOrEqual(62);
    expect(slow.losses).toHaveLength(1);
  });

  test("in HTTP/2, stream by stream, while the connection goes on", async () => {
    const slow = listener();
    slow.socket.say(
      Buffer.concat([begun2, ...[1, 3, 5].map((id) => rawFrame(frames.HEADERS, frames.END_HEADERS, id, post2))]),
    );
    for (let second = 0; second < 70; second++) {
      for (const id of [1, 3]) slow.socket.say(rawFrame(frames.DATA, 0, id, "00"));
      slow.socket.say(rawFrame(frames.DATA, 0, 5, Buffer.alloc(64)));
      slow.clock.advance(1_000);
      await turn();
    }
    expect(slow.losses).toHaveLength(2);
    expect(slow.socket.writable).toBe(true);
  });
});

describe("at the inbound listener", () => {
  let routee: RawRoutee;
  let mesh: TwoProxies;

  beforeAll(async () => {
    routee = await RawRoutee.start();
    const options = {
      tls: { handshakeMs: 300 },
      http1: { headersMs: 300 },
      http2: { headersMs: 300, settingsMs: 300 },
    };
    mesh = await twoProxies(await makeTestPki({ wallMs: Date.now() }), { routee: routee.port, options });
  });

  afterAll(async () => {
    await mesh.end();
    routee.close();
  });

  test("a TLS handshake that is not begun, or stops in the middle, ends in its time (row 32)", async () => {
    const port = mesh.orders.proxy.inboundPort;
    const hello = Buffer.from([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]);
    for (const bytes of [undefined, hello]) {
      const socket = connect(port, "127.0.0.1");
      socket.on("error", () => undefined);
      if (bytes !== undefined) socket.write(bytes);
      socket.resume();
      await once(socket, "close");
    }
  });

  test("a peer that has proven itself and then says half a head ends in its time, over either protocol (row 32)", async () => {
    for (const [alpn, bytes] of [
      ["http/1.1", Buffer.from("GET / HTTP/1.1\r\nX: ")],
      ["h2", Buffer.concat([begun2, rawFrame(frames.HEADERS, 0, 1, post2)])],
      ["h2", rawPreface.subarray(0, 5)],
    ] as const) {
      const socket = await dialInbound(mesh, "web", alpn);
      socket.on("error", () => undefined);
      socket.resume();
      socket.write(bytes);
      await once(socket, "end");
      socket.destroy();
    }
    expect(routee.text).toBe("");
  });
});

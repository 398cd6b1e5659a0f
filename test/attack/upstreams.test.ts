import { once } from "node:events";
import { createServer as createHttpServer } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { createServer as createTlsServer, type Server } from "node:tls";
import { gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { isRefusal } from "../../src/base/errors.ts";
import { defaultsOf } from "../../src/base/options.ts";
import * as frames from "../../src/http/http2/frames.ts";
import { fetchJwks } from "../../src/proxy/jwks-fetch.ts";
import { proxyOptions } from "../../src/proxy/options.ts";
import { buildSnapshot } from "../../src/proxy/snapshot.ts";
import { toPem } from "../../src/x509/pem.ts";
import { rawFields, rawFrame, RawPeer as RawHttp2Peer, rawPreface, uint32 } from "../support/http2-raw.ts";
import { ManualClock } from "../support/manual-clock.ts";
import { ask } from "../support/mesh.ts";
import { allow, endpoint } from "../support/outbound.ts";
import { makeTestPki, type TestPki } from "../support/pki.ts";
import { ok, RawPeer, RawRoutee } from "../support/raw-routee.ts";
import { idText, twoProxies, webMay, type TwoProxies } from "../support/two-proxies.ts";

/**
 * Row 31 and its kin: routees, callees and other sources that answer nonsense, too much, or never. The one who called gets an
 * answer that names whose fault it was, in time, and the sidecars serve everybody else.
 */
let pki: TestPki;
let routee: RawRoutee;
let mesh: TwoProxies;
const ends: (() => void)[] = [];

beforeAll(async () => {
  pki = await makeTestPki({ wallMs: Date.now() });
  routee = await RawRoutee.start();
  const resilience = { breakerFailuresMax: 1_000, breakerRequestsMin: 100_000, retriesMax: 0 };
  mesh = await twoProxies(pki, { routee: routee.port, options: { resilience, proxy: { requestTimeoutMs: 500 } } });
});

afterEach(() => {
  for (const end of ends.splice(0)) end();
  routee.forget();
  routee.answer = () => ok("ok");
  mesh.publish(webMay);
});

afterAll(async () => {
  await mesh.end();
  routee.close();
});

/** What the caller gets: its status and code, or how its connection ended. */
async function called(path = "/"): Promise<string> {
  return ask({ port: mesh.web.proxy.outboundPort, host: "orders", path }).then(
    ({ status, headers }) => `${status} ${String(headers["x-hauberk-code"] ?? "")}`.trim(),
    (error: NodeJS.ErrnoException) => error.code ?? error.message,
  );
}

async function othersAreServed(): Promise<void> {
  mesh.publish(webMay);
  routee.answer = () => ok("ok");
  expect(await called()).toBe("200");
}

describe("a routee", () => {
  const huge = `HTTP/1.1 200 OK\r\n${`X-Huge: ${"v".repeat(4_000)}\r\n`.repeat(10)}\r\n`;
  const hostile: [string, string, string][] = [
    ["nonsense", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 what?\r\n\r\n", "502 UPSTREAM_INVALID"],
    ["an answer of another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n", "502 UPSTREAM_INVALID"],
    ["fields of 40 KB", huge, "502 UPSTREAM_INVALID"],
    ["500 fields", `HTTP/1.1 200 OK\r\n${"X: y\r\n".repeat(500)}\r\n`, "502 UPSTREAM_INVALID"],
    ["a field that never ends", `HTTP/1.1 200 OK\r\nX: ${"y".repeat(1_000_000)}`, "502 UPSTREAM_INVALID"],
    ["a thousand interim answers", "HTTP/1.1 103 Early\r\nLink: x\r\n\r\n".repeat(1_000), "502 UPSTREAM_INVALID"],
    [
      "an upgrade that nobody asked for",
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
      "502 UPSTREAM_INVALID",
    ],
    ["two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "502 UPSTREAM_INVALID"],
    ["a status of 700", "HTTP/1.1 700 What\r\n\r\n", "502 UPSTREAM_INVALID"],
    ["a line end that splits", "HTTP/1.1 200 OK\nX: y\n\n", "502 UPSTREAM_INVALID"],
    ["a chunk size that is none", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "ECONNRESET"],
    [
      "chunk extensions without end",
      `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;${"x".repeat(100_000)}`,
      "ECONNRESET",
    ],
  ];
  test.each(hostile)(
    "that answers %s costs its own call, and names whose fault it is (row 31)",
    async (_, text, expected) => {
      routee.answer = () => text;
      expect(await called()).toBe(expected);
      await othersAreServed();
    },
  );

  test("that never answers, and one that says one interim answer and no more, end with the deadline (row 31)", async () => {
    routee.answer = () => undefined;
    expect(await called()).toBe("504 DEADLINE_EXCEEDED");
    routee.answer = () => "HTTP/1.1 103 Early\r\nLink: x\r\n\r\n";
    expect(await called()).toBe("504 DEADLINE_EXCEEDED");
    await othersAreServed();
  });

  test("that ends its connection with each answer half said costs that answer alone (row 31)", async () => {
    for (const text of ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"]) {
      routee.answer = (_head, peer) => {
        peer.socket.end(text);
        return undefined;
      };
      expect(["502 UPSTREAM_LOST", "503 CONNECT_FAILED", "ECONNRESET"]).toContain(await called());
    }
    await othersAreServed();
  });

  test("that says more behind its answer gives it to nobody, and its connection is not used again (row 31)", async () => {
    routee.answer = () => ok("one") + ok("two");
    for (let i = 0; i < 3; i++) {
      const { body } = await ask({ port: mesh.web.proxy.outboundPort, host: "orders", path: "/" });
      expect(body).toBe("one");
    }
    expect(routee.asked).toHaveLength(3);
  });

  test("whose answer has no end is read no further than its client reads, and let go when the client leaves (row 33)", async () => {
    const chunk = Buffer.alloc(65_536, "x");
    let written = 0;
    routee.answer = (_head, { socket }) => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      const pump = (): void => {
        while (!socket.destroyed && socket.write(chunk)) written += chunk.length;
      };
      socket.on("drain", pump);
      pump();
      return undefined;
    };
    const client = RawPeer.to(mesh.web.proxy.outboundPort);
    client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
    await client.until((text) => text.length > 200_000);
    client.socket.pause();
    // Until nothing moves any more: what is on its way are the windows and the kernel's own buffers.
    for (let before = -1; before !== written;) {
      before = written;
      for (let i = 0; i < 200; i++) await new Promise((resolve) => setImmediate(resolve));
    }
    expect(written).toBeLessThan(64 * 1_048_576);
    client.socket.destroy();
    await routee.peers.at(-1)?.over();
    await othersAreServed();
  });
});

describe("a callee with the right identity and no sidecar of ours", () => {
  const { HEADERS, DATA, SETTINGS, PING, GOAWAY, RST_STREAM, WINDOW_UPDATE, CONTINUATION, PUSH_PROMISE } = frames;
  const WHOLE = frames.END_HEADERS;
  const END = frames.END_STREAM;
  const ok2 = Buffer.from([0x88]);
  const many = (count: number, frame: Buffer): Buffer => Buffer.concat(Array.from({ length: count }, () => frame));

  /** Calls go to a server that says `first` at once and `then` to each request. */
  async function serve(first: Buffer, then: (id: number, peer: RawHttp2Peer) => Buffer): Promise<void> {
    const identity = pki.issue(idText("orders"), { dnsNames: ["orders.default.mesh"] });
    const sockets = new Set<Socket>();
    const server: Server = createTlsServer(
      {
        key: toPem("PRIVATE KEY", identity.key.export({ type: "pkcs8", format: "der" })),
        cert: identity.chain.map(({ der }) => toPem("CERTIFICATE", der)).join(""),
        ca: [toPem("CERTIFICATE", pki.root.der)],
        requestCert: true,
        ALPNProtocols: ["h2"],
      },
      (socket) => {
        sockets.add(socket);
        socket.on("error", () => undefined);
        const peer = new RawHttp2Peer(socket, rawPreface.length);
        peer.send(first);
        let seen = 0;
        socket.on("data", () => {
          for (; seen < peer.frames.length; seen++) {
            const frame = peer.frames[seen];
            if (frame?.type === HEADERS && !socket.destroyed) peer.send(then(frame.streamId, peer));
          }
        });
      },
    );
    server.on("tlsClientError", () => undefined);
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    ends.push(() => {
      server.close();
      for (const socket of sockets) socket.destroy();
    });
    const { port } = server.address() as AddressInfo;
    const endpoints = [
      endpoint("evil", { address: "127.0.0.1", port, ports: [{ name: "http", port: 80, protocol: "http" }] }),
    ];
    const policies = [allow("orders", webMay)];
    mesh.web.snapshot.publish(
      buildSnapshot([["service/orders.default", { id: idText("orders"), policies, endpoints }]]),
    );
  }

  const fine = rawFrame(SETTINGS, 0, 0);
  const nothing = Buffer.alloc(0);
  const invalid = /^(?:502 UPSTREAM_(?:INVALID|LOST)|503 CONNECT_FAILED)$/;
  const late = /^504 DEADLINE_EXCEEDED$/;
  const table: [string, Buffer, (id: number) => Buffer, RegExp][] = [
    ["allows no streams", rawFrame(SETTINGS, 0, 0, "0003 00000000"), () => nothing, /^50[34] /],
    [
      "allows no streams and says GOAWAY",
      Buffer.concat([rawFrame(SETTINGS, 0, 0, "0003 00000000"), rawFrame(GOAWAY, 0, 0, "00000000 00000000")]),
      () => nothing,
      /^50[34] /,
    ],
    [
      "says GOAWAY to each request, and takes the streams away",
      fine,
      () => Buffer.concat([rawFrame(SETTINGS, 0, 0, "0003 00000000"), rawFrame(GOAWAY, 0, 0, "00000000 00000000")]),
      /^50[234] /,
    ],
    ["says GOAWAY above every stream and nothing more", fine, () => rawFrame(GOAWAY, 0, 0, "7fffffff 00000000"), late],
    ["says no settings", rawFrame(PING, 0, 0, Buffer.alloc(8)), () => nothing, /^503 CONNECT_FAILED$/],
    ["says nothing at all", nothing, () => nothing, /^50[34] /],
    ["speaks HTTP/1.1", Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"), () => nothing, /^503 CONNECT_FAILED$/],
    ["resets every stream", fine, (id) => rawFrame(RST_STREAM, 0, id, uint32(frames.INTERNAL_ERROR)), invalid],
    ["refuses every stream", fine, (id) => rawFrame(RST_STREAM, 0, id, uint32(frames.REFUSED_STREAM)), /^503 /],
    ["answers on a stream that nobody opened", fine, (id) => rawFrame(HEADERS, WHOLE | END, id + 2, ok2), invalid],
    ["answers with a body before its head", fine, (id) => rawFrame(DATA, END, id, "00"), invalid],
    ["answers without a status", fine, (id) => rawFrame(HEADERS, WHOLE | END, id, rawFields(["x-a", "1"])), invalid],
    [
      "answers with a connection's field",
      fine,
      (id) => rawFrame(HEADERS, WHOLE | END, id, Buffer.concat([ok2, rawFields(["connection", "close"])])),
      invalid,
    ],
    [
      "answers with a line end in a field",
      fine,
      (id) => rawFrame(HEADERS, WHOLE | END, id, Buffer.concat([ok2, rawFields(["x", "a\r\nb: c"])])),
      invalid,
    ],
    [
      "answers with a block that does not decode",
      fine,
      (id) => rawFrame(HEADERS, WHOLE | END, id, "ffffffffff"),
      invalid,
    ],
    ["pushes", fine, (id) => rawFrame(PUSH_PROMISE, WHOLE, id, Buffer.concat([uint32(2), ok2])), invalid],
    [
      "answers with fields of 40 MB in 10 KB",
      fine,
      (id) =>
        rawFrame(
          HEADERS,
          WHOLE | END,
          id,
          Buffer.concat([
            ok2,
            Buffer.from("4001617f811e", "hex"),
            Buffer.alloc(3_968, "v"),
            Buffer.alloc(10_000, 0xbe),
          ]),
        ),
      invalid,
    ],
    [
      "begins a block and never ends it",
      fine,
      (id) => Buffer.concat([rawFrame(HEADERS, END, id, ok2), many(2_000, rawFrame(CONTINUATION, 0, id))]),
      invalid,
    ],
    ["begins a block and falls silent", fine, (id) => rawFrame(HEADERS, END, id, ok2), /^50[24] /],
    [
      "floods with interim answers",
      fine,
      (id) => many(2_000, rawFrame(HEADERS, WHOLE, id, rawFields([":status", "103"]))),
      invalid,
    ],
    ["floods with PING", fine, () => many(20_000, rawFrame(PING, 0, 0, Buffer.alloc(8))), invalid],
    ["floods with SETTINGS", fine, () => many(2_000, rawFrame(SETTINGS, 0, 0)), invalid],
    [
      "floods with empty DATA",
      fine,
      (id) => Buffer.concat([rawFrame(HEADERS, WHOLE, id, ok2), many(20_000, rawFrame(DATA, 0, id))]),
      /ECONNRESET|502/,
    ],
    ["floods with window updates", fine, () => many(20_000, rawFrame(WINDOW_UPDATE, 0, 0, uint32(1))), invalid],
    ["overruns a window", fine, () => rawFrame(WINDOW_UPDATE, 0, 0, uint32(0x7fff_ffff)), invalid],
    ["never answers", fine, () => nothing, late],
    [
      "says less than its length",
      fine,
      (id) =>
        Buffer.concat([
          rawFrame(HEADERS, WHOLE, id, Buffer.concat([ok2, rawFields(["content-length", "5"])])),
          rawFrame(DATA, END, id, "00"),
        ]),
      /ECONNRESET|502/,
    ],
  ];
  test.each(table)("that %s costs its own calls, in time (row 31)", async (_, first, then, expected) => {
    await serve(first, then);
    for (let i = 0; i < 3; i++) expect(await called()).toMatch(expected);
    await othersAreServed();
  });
});

describe("what is fetched on the side", () => {
  test("a key source that never stops writing is cut off at the cap (row 33)", async () => {
    let written = 0;
    const server = createHttpServer((_, response) => {
      const pump = (): void => {
        while (!response.destroyed && response.write(Buffer.alloc(65_536, " "))) written += 65_536;
      };
      response.on("drain", pump);
      response.on("error", () => undefined);
      pump();
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    ends.push(() => {
      server.closeAllConnections();
      server.close();
    });
    const uri = `http://127.0.0.1:${(server.address() as AddressInfo).port}/keys`;
    const options = { ...defaultsOf(proxyOptions), jwksAllowLoopback: true };
    expect(isRefusal(await fetchJwks(uri, { clock: new ManualClock(), options }))).toBe(true);
    expect(written).toBeLessThan(options.jwksMaxBytes + 16 * 1_048_576);
  });
});

describe("compression", () => {
  test("a decompression bomb crosses both sidecars as the bytes that it is (row 40)", async () => {
    const bomb = gzipSync(Buffer.alloc(50_000_000)).toString("latin1");
    routee.answer = () => ok(bomb, "Content-Encoding: gzip\r\n");
    const client = RawPeer.to(mesh.web.proxy.outboundPort);
    client.send("GET / HTTP/1.1\r\nHost: orders\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n");
    const answer = await client.over();
    expect(answer).toMatch(/^HTTP\/1\.1 200 [^]*content-encoding: gzip\r\n/i);
    expect(answer.endsWith(bomb)).toBe(true);
    expect(answer.length).toBeLessThan(bomb.length + 1_000);
  });
});

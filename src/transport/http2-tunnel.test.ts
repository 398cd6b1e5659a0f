import { connect, createServer, constants, type Http2Server, type ServerHttp2Stream } from "node:http2";
import { createServer as createTcpServer, connect as connectTcp, type AddressInfo } from "node:net";
import { describe, expect, test } from "vitest";
import {
  Heard,
  ask,
  bothEnds,
  contextOf,
  endsOf,
  facts,
  get,
  optionsWith,
  rawToClient,
  rawToServer,
} from "../../test/support/http2-pair.ts";
import { rawFields, rawFrame, uint32, type RawPeer } from "../../test/support/http2-raw.ts";
import * as frames from "../http/http2/frames.ts";
import type { RequestHead } from "../http/message.ts";
import type { Handler, ServerExchange } from "./exchange.ts";
import { connectHttp2 } from "./http2-client.ts";
import { serveHttp2 } from "./http2-server.ts";

const { DATA, HEADERS, RST_STREAM, SETTINGS } = frames;
const END = frames.END_STREAM;
const WHOLE = frames.END_HEADERS;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

const connectHead: RequestHead = {
  method: "CONNECT",
  scheme: "",
  authority: "db.default.mesh:5432",
  path: "",
  fields: [],
  bodyLength: -1,
};
const upgradeHead: RequestHead = {
  method: "GET",
  scheme: "https",
  authority: "chat.default.mesh",
  path: "/rooms?a=b",
  fields: ["sec-websocket-version", "13"],
  bodyLength: -1,
  upgrade: "websocket",
};
const connectFields = [":method", "CONNECT", ":authority", "db:5432"];
const extendedFields = [
  ":method",
  "CONNECT",
  ":protocol",
  "websocket",
  ":scheme",
  "https",
  ":path",
  "/rooms",
  ":authority",
  "chat",
];

/** Opens what is asked for and sends back, in upper case, what comes; ends its side when the other has ended. */
function shouting(seen: ServerExchange[] = []): Handler {
  return (exchange) => {
    seen.push(exchange);
    exchange.respond({ status: exchange.head.upgrade === undefined ? 200 : 101, fields: [], bodyLength: -1 }, false);
    exchange.listen({
      data(chunk) {
        exchange.consume(chunk.length);
        exchange.write(Buffer.from(chunk.toString().toUpperCase()));
      },
      end: () => exchange.end(),
      aborted() {},
      drained() {},
    });
  };
}

function answering(status: number, end = true): Handler {
  return (exchange) => {
    exchange.listen(new Heard());
    exchange.respond({ status, fields: [], bodyLength: end ? 0 : -1 }, end);
  };
}

function headers(id: number, fields: string[], flags = WHOLE): Buffer {
  return rawFrame(HEADERS, flags, id, rawFields(fields));
}

function resetOf(peer: RawPeer): string | undefined {
  const reset = peer.frames.find((frame) => frame.type === RST_STREAM);
  return reset === undefined ? undefined : frames.errorName(reset.payload.readUInt32BE(0));
}

async function untilReset(peer: RawPeer): Promise<string | undefined> {
  await peer.until(() => resetOf(peer) !== undefined);
  return resetOf(peer);
}

describe("RFC 8441, 3: extended CONNECT is announced", () => {
  test("a server says SETTINGS_ENABLE_CONNECT_PROTOCOL=1 in its first frame", async () => {
    const { peer } = rawToServer(shouting());
    await peer.until(() => peer.frames.length > 0);
    const [first] = peer.frames;
    expect(first?.type).toBe(SETTINGS);
    expect(first?.payload.toString("hex")).toContain("000800000001");
  });

  test("without it a request for a protocol is not processed, and nothing of it is written", async () => {
    const { peer, client } = await rawToClient();
    const { heard } = ask(client, upgradeHead, false);
    await heard.over();
    expect(heard.loss?.kind).toBe("unprocessed");
    expect(client.open).toBe(true);
    expect(peer.frames.some((frame) => frame.type === HEADERS)).toBe(false);
  });

  test("a server that takes it back breaks the protocol", async () => {
    const { peer, ends } = await rawToClient({}, rawFrame(SETTINGS, 0, 0, "0008 00000001"));
    peer.send(rawFrame(SETTINGS, 0, 0, "0008 00000000"));
    await peer.end();
    expect(ends.closed[0]).toContain("PROTOCOL_ERROR");
  });
});

describe("RFC 8441, 4 and 5: :protocol", () => {
  test("is GET with an upgrade at both ends, CONNECT with :protocol and 200 on the wire", async () => {
    const seen: ServerExchange[] = [];
    const { client } = await bothEnds(shouting(seen));
    const { exchange, heard } = ask(client, upgradeHead, false);
    exchange.write(Buffer.from("hello"));
    exchange.end();
    await heard.over();
    expect(seen[0]?.head).toEqual(upgradeHead);
    expect([heard.loss, ...heard.heads]).toEqual([undefined, { status: 101, fields: [], bodyLength: -1 }]);
    expect(heard.body).toBe("HELLO");

    const { peer } = await rawToClient({}, rawFrame(SETTINGS, 0, 0, "0008 00000001"));
    expect(peer.frames).toBeDefined();
    const raw = rawToServer(shouting());
    raw.peer.send(headers(1, extendedFields));
    await raw.peer.until(() => raw.peer.frames.some((frame) => frame.type === HEADERS));
    const head = raw.peer.frames.find((frame) => frame.type === HEADERS);
    // Index 8 of the static table is ":status: 200".
    expect(head?.payload.toString("hex")).toBe("88");
    expect((head?.flags ?? 0) & END).toBe(0);
  });

  const malformed: [string, string[]][] = [
    ["with GET", [":method", "GET", ...extendedFields.slice(2)]],
    ["twice", [...extendedFields, ":protocol", "websocket"]],
    ["without :path", extendedFields.filter((text) => text !== ":path" && text !== "/rooms")],
    ["without :scheme", extendedFields.filter((text) => text !== ":scheme" && text !== "https")],
    ["with a path of *", extendedFields.map((text) => (text === "/rooms" ? "*" : text))],
    ["with a content length", [...extendedFields, "content-length", "0"]],
    ["with the fields of HTTP/1.1", [...extendedFields, "upgrade", "websocket"]],
  ];
  for (const [name, fields] of malformed) {
    test(`${name} is malformed`, async () => {
      const seen: ServerExchange[] = [];
      const { peer } = rawToServer(shouting(seen));
      peer.send(headers(1, fields));
      expect(await untilReset(peer)).toBe("PROTOCOL_ERROR");
      expect(seen).toEqual([]);
    });
  }

  test("of another name is answered with 501, and its stream is over", async () => {
    const seen: ServerExchange[] = [];
    const { peer } = rawToServer(shouting(seen));
    peer.send(headers(1, extendedFields.toSpliced(3, 1, "connect-udp")));
    expect(await untilReset(peer)).toBe("NO_ERROR");
    const body = peer.frames.filter((frame) => frame.type === DATA).map((frame) => frame.payload.toString());
    expect(body.join("")).toContain("METHOD_UNSUPPORTED");
    expect(seen).toEqual([]);
  });

  for (const status of [200, 204, 101]) {
    test(`a ${status} can only open the tunnel that was asked for (CVE-2024-23326)`, async () => {
      const { client } = await bothEnds(answering(status));
      const { heard } = ask(client, status === 101 ? connectHead : upgradeHead, false);
      await heard.over();
      expect(heard.heads).toEqual([]);
      expect(heard.loss?.kind).toBe("lost");
    });
  }

  test("an ordinary request cannot be answered with 101", async () => {
    const { client } = await bothEnds(answering(101));
    const { heard } = ask(client, get());
    await heard.over();
    expect(heard.heads).toEqual([]);
  });

  test("a refusal is an ordinary answer, and what the client sends does not wait for anybody", async () => {
    const { client } = await bothEnds((exchange) => {
      exchange.listen(new Heard());
      exchange.respond({ status: 403, fields: ["x-a", "1"], bodyLength: 2 }, false);
      exchange.write(Buffer.from("no"));
      exchange.end();
    });
    const { heard } = ask(client, upgradeHead, false);
    await heard.until(() => heard.ended);
    expect(heard.heads).toEqual([{ status: 403, fields: ["x-a", "1"], bodyLength: 2 }]);
    expect(heard.body).toBe("no");
    await turn();
    expect(client.exchanges).toBe(0);
  });
});

describe("RFC 9113, 8.5: CONNECT", () => {
  test("each side ends its direction, the other goes on", async () => {
    const seen: ServerExchange[] = [];
    const server = new Heard();
    const { client } = await bothEnds((exchange) => {
      seen.push(exchange);
      exchange.listen(server);
      exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
    });
    const { exchange, heard } = ask(client, connectHead, false);
    await heard.until(() => heard.heads.length === 1);
    exchange.end();
    await server.until(() => server.ended);
    seen[0]?.write(Buffer.from("still"));
    await heard.until(() => heard.body === "still");
    seen[0]?.end();
    await heard.over();
    expect(client.exchanges).toBe(0);

    const other = ask(client, connectHead, false);
    await other.heard.until(() => other.heard.heads.length === 1);
    seen[1]?.end();
    await other.heard.over();
    other.exchange.write(Buffer.from("also"));
    await server.until(() => server.body === "also");
    expect(client.exchanges).toBe(1);
    other.exchange.end();
    await turn();
    await turn();
    expect(client.exchanges).toBe(0);
  });

  test("no length is written or believed", async () => {
    const { peer, client } = await rawToClient();
    const { heard } = ask(client, { ...connectHead, bodyLength: 3 }, false);
    await peer.until(() => peer.frames.some((frame) => frame.type === HEADERS));
    const head = peer.frames.find((frame) => frame.type === HEADERS);
    expect(head?.payload.toString("latin1")).not.toContain("content-length");
    expect(head?.payload.includes(0x5c)).toBe(false);
    peer.send(headers(1, [":status", "200", "content-length", "1"]), rawFrame(DATA, 0, 1, "6162"));
    await heard.until(() => heard.body === "ab");
    expect(heard.heads[0]?.bodyLength).toBe(-1);
  });

  test("a refusal's length is believed", async () => {
    const { peer, client } = await rawToClient();
    const { heard } = ask(client, connectHead, false);
    peer.send(headers(1, [":status", "403", "content-length", "1"]), rawFrame(DATA, 0, 1, "6162"));
    await heard.over();
    expect(heard.loss?.kind).toBe("invalid");
  });

  test("a request with a content length is malformed", async () => {
    const { peer } = rawToServer(shouting());
    peer.send(headers(1, [...connectFields, "content-length", "5"]));
    expect(await untilReset(peer)).toBe("PROTOCOL_ERROR");
  });

  test("HEADERS in a tunnel are a stream error on both sides", async () => {
    const { peer } = rawToServer(shouting());
    peer.send(headers(1, connectFields), headers(1, ["x-sum", "1"], WHOLE | END));
    expect(await untilReset(peer)).toBe("PROTOCOL_ERROR");

    const raw = await rawToClient();
    const { heard } = ask(raw.client, connectHead, false);
    raw.peer.send(headers(1, [":status", "200"]), headers(1, ["x-sum", "1"], WHOLE | END));
    await heard.over();
    expect(heard.loss?.kind).toBe("invalid");
    expect(await untilReset(raw.peer)).toBe("PROTOCOL_ERROR");
  });

  test("what broke behind an open tunnel is CONNECT_ERROR, what nobody wants any more CANCEL", async () => {
    const seen: ServerExchange[] = [];
    const { peer } = rawToServer(shouting(seen));
    peer.send(headers(1, connectFields));
    await peer.until(() => peer.frames.some((frame) => frame.type === HEADERS));
    // Also where our direction had ended: NO_ERROR would say that all of it was well.
    seen[0]?.end();
    seen[0]?.abort({ kind: "lost", because: "ECONNRESET" });
    expect(await untilReset(peer)).toBe("CONNECT_ERROR");

    const { client } = await bothEnds((exchange) => {
      exchange.listen(new Heard());
      exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
      exchange.abort({ kind: "cancelled", because: "gone" });
    });
    const { heard } = ask(client, connectHead, false);
    await heard.over();
    expect(heard.loss).toEqual({ kind: "cancelled", because: "RST_STREAM: CANCEL" });
  });

  test("trailers at the end of a tunnel are left out", async () => {
    const { client } = await bothEnds(shouting());
    const { exchange, heard } = ask(client, connectHead, false);
    await heard.until(() => heard.heads.length === 1);
    exchange.end(["x-sum", "1"]);
    await heard.over();
    expect([heard.loss, heard.trailers]).toEqual([undefined, undefined]);
  });

  test("a client that ended its side at once still reads", async () => {
    const { peer } = rawToServer((exchange) => {
      expect(exchange.bodyless).toBe(true);
      exchange.listen(new Heard());
      exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
      exchange.write(Buffer.from("220 mail"));
      exchange.end();
    });
    peer.send(headers(1, connectFields, WHOLE | END));
    await peer.until(() => peer.frames.some((frame) => frame.type === DATA && (frame.flags & END) !== 0));
    expect(resetOf(peer)).toBeUndefined();
  });

  test("a tunnel that is reset by its client says so", async () => {
    const server = new Heard();
    const { peer } = rawToServer((exchange) => {
      exchange.listen(server);
      exchange.respond({ status: 200, fields: [], bodyLength: -1 }, false);
    });
    peer.send(headers(1, connectFields), rawFrame(RST_STREAM, 0, 1, uint32(frames.CANCEL)));
    await server.over();
    expect(server.loss?.kind).toBe("cancelled");
  });
});

describe("node:http2 at the other end", () => {
  test("its client opens CONNECT and extended CONNECT tunnels", async () => {
    const tcp = createTcpServer((socket) => {
      serveHttp2(socket, facts, shouting(), contextOf(endsOf(), optionsWith()));
    });
    await new Promise<void>((resolve) => tcp.listen(0, "127.0.0.1", resolve));
    const { port } = tcp.address() as AddressInfo;
    const session = connect(`http://127.0.0.1:${port}`);
    await new Promise((resolve) => session.once("remoteSettings", resolve));
    for (const head of [
      { ":method": "CONNECT", ":authority": "db:5432" },
      { ":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":path": "/", ":authority": "chat" },
    ]) {
      const stream = session.request(head, { endStream: false });
      stream.write("abc");
      const status = await new Promise((resolve) => stream.once("response", (fields) => resolve(fields[":status"])));
      stream.end();
      let got = "";
      for await (const chunk of stream) got += String(chunk);
      expect([status, got]).toEqual([200, "ABC"]);
    }
    session.close();
    await new Promise((resolve) => tcp.close(resolve));
  });

  test("its server takes our CONNECT and extended CONNECT", async () => {
    const server: Http2Server = createServer({ settings: { enableConnectProtocol: true } });
    const asked: unknown[] = [];
    server.on("stream", (stream: ServerHttp2Stream, fields) => {
      asked.push([fields[":method"], fields[":protocol"], fields[":path"]]);
      stream.respond({ [constants.HTTP2_HEADER_STATUS]: 200 });
      stream.on("data", (chunk: Buffer) => stream.write(chunk.toString().toUpperCase()));
      stream.on("end", () => stream.end());
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const socket = connectTcp((server.address() as AddressInfo).port, "127.0.0.1");
    const client = await connectHttp2(socket, contextOf(endsOf(), optionsWith()));
    for (const head of [connectHead, upgradeHead]) {
      const { exchange, heard } = ask(client, head, false);
      await heard.until(() => heard.heads.length === 1);
      exchange.write(Buffer.from("abc"));
      exchange.end();
      await heard.over();
      expect(heard.body).toBe("ABC");
    }
    expect(asked).toEqual([
      ["CONNECT", undefined, undefined],
      ["CONNECT", "websocket", "/rooms?a=b"],
    ]);
    client.destroy("done");
    await new Promise((resolve) => server.close(resolve));
  });
});

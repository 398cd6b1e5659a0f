import { expect, test } from "vitest";
import { ask, get, Heard, rawToClient, rawToServer } from "../../test/support/http2-pair.ts";
import { rawFields, rawFrame, uint32 } from "../../test/support/http2-raw.ts";
import * as frames from "../http/http2/frames.ts";
import type { ServerExchange } from "./exchange.ts";

/** An answer that is whole before its request (RFC 9113, 8.1). */
const posting = [":method", "POST", ":scheme", "http", ":path", "/", ":authority", "orders"];
const begun = rawFrame(frames.HEADERS, frames.END_HEADERS, 1, rawFields(posting));

function early(exchange: ServerExchange): void {
  const heard: Heard = new Heard();
  heard.consumes = exchange;
  exchange.listen(heard);
  exchange.respond({ status: 200, fields: [], bodyLength: 0 }, true);
}

test("the rest of a request may come for a second behind its whole answer, then the client is told to stop", async () => {
  const { peer, server, clock } = rawToServer(early);
  peer.send(begun);
  await peer.until(() => peer.frames.some(({ type }) => type === frames.HEADERS));
  clock.advance(999);
  peer.send(rawFrame(frames.DATA, 0, 1, "00"), rawFrame(frames.PING, 0, 0, "0102030405060708"));
  await peer.until(() => peer.frames.some(({ type }) => type === frames.PING));
  expect([peer.frames.some(({ type }) => type === frames.RST_STREAM), server.exchanges]).toEqual([false, 1]);
  clock.advance(1);
  await peer.until(() => peer.frames.some(({ type }) => type === frames.RST_STREAM));
  const reset = peer.frames.find(({ type }) => type === frames.RST_STREAM);
  expect([reset?.streamId, reset?.payload.readUInt32BE(0), server.exchanges]).toEqual([1, frames.NO_ERROR, 0]);
});

test("a client that ends its request within that second is told nothing", async () => {
  const { peer, server, clock } = rawToServer(early);
  peer.send(begun, rawFrame(frames.DATA, frames.END_STREAM, 1, "00"), rawFrame(frames.PING, 0, 0, "0102030405060708"));
  await peer.until(() => peer.frames.some(({ type }) => type === frames.PING));
  clock.advance(2_000);
  peer.send(rawFrame(frames.PING, 0, 0, "ffffffffffffffff"));
  await peer.until(() => peer.frames.filter(({ type }) => type === frames.PING).length === 2);
  expect([peer.frames.some(({ type }) => type === frames.RST_STREAM), server.exchanges]).toEqual([false, 0]);
});

/** A request of two windows, ended, whose server has answered whole and taken half of it. */
async function answeredEarly() {
  const use = await rawToClient();
  const { exchange, heard } = ask(use.client, get("/", [], "POST"), false);
  exchange.write(Buffer.alloc(2 * frames.WINDOW_DEFAULT));
  exchange.end();
  const answer = rawFields([":status", "413"]);
  use.peer.send(rawFrame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, answer));
  await heard.over();
  return use;
}

test("a server that answers whole, and takes nothing of what is left of the request, is told after a second that nobody waits", async () => {
  const { peer, client, clock } = await answeredEarly();
  clock.advance(999);
  expect(client.exchanges).toBe(1);
  clock.advance(1);
  expect(client.exchanges).toBe(0);
  await peer.until(() => peer.frames.some(({ type }) => type === frames.RST_STREAM));
  const reset = peer.frames.find(({ type }) => type === frames.RST_STREAM);
  expect([reset?.streamId, reset?.payload.readUInt32BE(0)]).toEqual([1, frames.CANCEL]);
});

test("a server that takes some of the rest of a request in each second after its answer gets it whole", async () => {
  const { peer, client, clock } = await answeredEarly();
  for (const part of [10_000, 20_000, frames.WINDOW_DEFAULT - 30_000]) {
    clock.advance(999);
    const more = uint32(part);
    peer.send(rawFrame(frames.WINDOW_UPDATE, 0, 0, more), rawFrame(frames.WINDOW_UPDATE, 0, 1, more));
    peer.send(rawFrame(frames.PING, 0, 0, uint32(part).toString("hex") + "00000000"));
    await peer.until(() =>
      peer.frames.some(({ type, payload }) => type === frames.PING && payload.readUInt32BE(0) === part),
    );
  }
  await peer.until(() =>
    peer.frames.some(({ type, flags }) => type === frames.DATA && (flags & frames.END_STREAM) > 0),
  );
  clock.advance(1);
  const came = peer.frames.filter(({ type }) => type === frames.DATA);
  expect(came.reduce((sum, { payload }) => sum + payload.length, 0)).toBe(2 * frames.WINDOW_DEFAULT);
  expect([client.exchanges, peer.frames.some(({ type }) => type === frames.RST_STREAM)]).toEqual([0, false]);
});

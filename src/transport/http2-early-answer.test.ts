import { expect, test } from "vitest";
import { Heard, rawToServer } from "../../test/support/http2-pair.ts";
import { rawFields, rawFrame } from "../../test/support/http2-raw.ts";
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

import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { rethrow } from "../../test/support/manual-clock.ts";
import { Http2Output } from "./http2-output.ts";
import { lendSegment, segmentBytes } from "./segments.ts";

let sender: Socket;
let receiver: Socket;

beforeEach(async () => {
  const server = createServer({ pauseOnConnect: true });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  sender = connect((server.address() as AddressInfo).port, "127.0.0.1");
  [receiver] = (await once(server, "connection")) as [Socket];
  server.close();
});

afterEach(() => {
  sender.destroy();
  receiver.destroy();
});

/** Frames of one body, each in a segment of the output's own; `fill` is what they hold. */
function append(output: Http2Output, fill: number, frames: number): void {
  for (let i = 0; i < frames; i++) output.data(1, Buffer.alloc(8_000, fill), 0, 8_000);
}

test("a last word behind a write that is under way leaves as it was said, whoever needs a buffer meanwhile", async () => {
  const written: number[] = [];
  const output = new Http2Output(sender, {
    broke: rethrow,
    outputWritten: () => {
      written.push(output.pending);
      // Another connection takes whatever is free, and writes into it.
      for (let i = 0; i < 200; i++) lendSegment(segmentBytes).fill(0xee);
    },
  });
  // More than the kernel takes: the write stays under way until the other side reads.
  const large = Buffer.alloc(16_000_000, 1);
  output.data(1, large, 0, large.length);
  output.flush();
  append(output, 2, 500);
  output.flush(true);
  sender.end();
  let foreign = 0;
  let bytes = 0;
  for await (const chunk of receiver as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    for (const byte of chunk) if (byte === 0xee) foreign++;
  }
  expect([foreign, bytes]).toEqual([0, 16_000_009 + 500 * 8_009]);
  expect(written.length).toBeGreaterThan(0);
});

import type { Socket } from "node:net";
import { Writable } from "node:stream";
import { expect, test } from "vitest";
import { heldNow } from "../../test/support/memory.ts";
import { Http1Writer } from "./http1-writer.ts";

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** A socket whose other side reads nothing until it is told to. */
function stuckSocket(): { socket: Socket; read: () => string } {
  const came: Buffer[] = [];
  let stuck: (() => void) | undefined;
  let reads = false;
  const socket = new Writable({
    highWaterMark: 65_536,
    write(chunk: Buffer, _encoding, done) {
      came.push(Buffer.from(chunk));
      if (reads) done();
      else stuck = done;
    },
  });
  const read = (): string => {
    reads = true;
    const done = stuck;
    stuck = undefined; // Node takes a second call for a fault.
    done?.();
    return Buffer.concat(came).toString("latin1");
  };
  return { socket: socket as unknown as Socket, read };
}

test("single bytes, one for each turn, that wait for a socket that is behind, take no object each, and arrive in their order", async () => {
  const { socket, read } = stuckSocket();
  const writer = new Http1Writer(socket);
  let said = "";
  const say = (text: string): void => {
    said += text;
    writer.text(`${text.length}\r\n`);
    writer.chunk(Buffer.from(text), true);
    writer.plan();
  };
  for (let i = 0; i < 10; i++) {
    say("a");
    await turn();
  }
  const before = heldNow();
  for (let i = 0; i < 10_000; i++) {
    say(String.fromCharCode(98 + (i % 20)));
    await turn();
  }
  // 40,000 bytes of text; as an object for each turn they were 2 MB.
  expect(heldNow() - before).toBeLessThan(600_000);
  read();
  await turn();
  await turn();
  expect(read().replaceAll("1\r\n", "")).toBe(said);
});

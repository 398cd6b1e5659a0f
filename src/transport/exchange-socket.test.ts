import { expect, test } from "vitest";
import type { BodyEvents, ServerExchange } from "./exchange.ts";
import { socketOf } from "./exchange-socket.ts";

/** A tunnel whose client is the test. */
function tunnel(): { exchange: ServerExchange; client: BodyEvents; consumed: () => number } {
  let client: BodyEvents | undefined;
  let consumed = 0;
  const exchange = {
    listen: (events: BodyEvents) => (client = events),
    consume: (bytes: number) => (consumed += bytes),
    write: () => true,
    end: () => undefined,
    abort: () => undefined,
  } as unknown as ServerExchange;
  const at = { exchange, consumed: () => consumed };
  return Object.defineProperty(at, "client", { get: () => client as BodyEvents }) as ReturnType<typeof tunnel>;
}

const said = "the quick brown fox jumps over the lazy dog ".repeat(10_000);

test("what comes while nobody reads is not taken off its window, and is read whole and in its order", async () => {
  const at = tunnel();
  const socket = socketOf(at.exchange);
  let read = "";
  const whole = new Promise<void>((resolve) =>
    socket.on("data", (chunk: Buffer) => {
      read += chunk.toString("latin1");
      if (read.length === said.length) resolve();
    }),
  );
  const lent = Buffer.alloc(1);
  const say = (from: number, to: number): void => {
    for (let i = from; i < to; i++) {
      lent.write(said[i] as string, "latin1");
      if (i % 2 === 0) at.client.lent?.(lent);
      else at.client.data(Buffer.from(lent));
    }
  };
  say(0, 1_000);
  socket.pause();
  const before = at.consumed();
  say(1_000, said.length);
  const { readableLength } = socket;
  await new Promise((resolve) => setImmediate(resolve));
  expect(at.consumed()).toBe(before);
  // In the stream itself, where each chunk is an object, it does not lie.
  expect(readableLength).toBeLessThanOrEqual(1_000);
  socket.resume();
  await whole;
  await new Promise((resolve) => setImmediate(resolve));
  expect(read).toBe(said);
  expect(at.consumed()).toBe(said.length);
});

test("what comes while nobody reads is read before the end, also where the end comes first", async () => {
  const at = tunnel();
  const socket = socketOf(at.exchange);
  let read = "";
  const ended = new Promise<void>((resolve) => socket.on("end", () => resolve()));
  socket.on("data", (chunk: Buffer) => (read += chunk.toString("latin1")));
  socket.pause();
  at.client.data(Buffer.from("all "));
  at.client.data(Buffer.from("of it"));
  at.client.end(undefined);
  socket.resume();
  await ended;
  expect(read).toBe("all of it");
});

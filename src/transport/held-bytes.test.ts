import * as fc from "fast-check";
import { expect, test } from "vitest";
import { heldNow } from "../../test/support/memory.ts";
import { HeldBytes } from "./held-bytes.ts";

const steps = fc.array(
  fc.oneof(
    fc.record({ add: fc.oneof(fc.nat(3), fc.nat(20_000)), lent: fc.boolean() }),
    fc.record({ drop: fc.option(fc.nat(30_000), { nil: undefined }) }),
    fc.constant("look" as const),
  ),
  { maxLength: 60 },
);

test("what is held comes out in its order, whatever was joined, lent, looked at and dropped between", () => {
  fc.assert(
    fc.property(steps, (todo) => {
      const held = new HeldBytes();
      let expected = Buffer.alloc(0);
      let next = 0;
      for (const step of todo) {
        if (step === "look") {
          expect(Buffer.concat([...held]).equals(expected)).toBe(true);
        } else if ("add" in step) {
          const chunk = Buffer.from(Array.from({ length: step.add }, () => next++ & 0xff));
          expected = Buffer.concat([expected, chunk]);
          held.add(chunk, step.lent);
          if (step.lent) chunk.fill(0xee);
        } else {
          const { first } = held;
          const bytes = step.drop === undefined ? undefined : Math.min(step.drop, first?.length ?? 0);
          held.drop(bytes);
          expected = expected.subarray(bytes ?? first?.length ?? 0);
        }
        expect(held.bytes).toBe(expected.length);
        expect(held.first === undefined).toBe(expected.length === 0);
      }
      expect(Buffer.concat([...held]).equals(expected)).toBe(true);
    }),
  );
});

test("small chunks are joined: single bytes are a few chunks, and take about twice themselves", () => {
  const held = new HeldBytes();
  const byte = Buffer.from("x");
  for (let i = 0; i < 262_144; i++) held.add(byte, true);
  const chunks = [...held];
  expect(chunks.length).toBeLessThan(16);
  const blocks = new Set(chunks.map(({ buffer }) => buffer));
  const taken = [...blocks].reduce((sum, { byteLength }) => sum + byteLength, 0);
  expect(taken).toBeLessThan(2 * 262_144);
});

test("a chunk keeps its bytes while others are joined behind it", () => {
  const held = new HeldBytes();
  held.add(Buffer.from("a"));
  expect(held.first?.toString()).toBe("a");
  held.add(Buffer.from("b"));
  held.drop();
  const second = held.first as Buffer;
  held.add(Buffer.from("c"));
  expect(second.toString()).toBe("b");
  expect(Buffer.concat([...held]).toString()).toBe("bc");
});

test("a large chunk is kept as it is, and a lent one by the copy that was asked for", () => {
  const copies: Buffer[] = [];
  const held = new HeldBytes((lent) => {
    copies.push(Buffer.from(lent));
    return copies[0] as Buffer;
  });
  const large = Buffer.alloc(10_000, "l");
  held.add(large);
  held.add(large, true);
  expect([...held]).toEqual([large, large]);
  expect([...held][0]).toBe(large);
  expect([...held][1]).toBe(copies[0]);
});

test("one small chunk keeps no more than itself, whatever was made between", () => {
  const held: HeldBytes[] = [];
  const before = heldNow();
  for (let i = 0; i < 1_000; i++) {
    const one = new HeldBytes();
    one.add(Buffer.from("x"), true);
    expect(one.first?.toString()).toBe("x");
    held.push(one);
    for (let bytes = 0; bytes < 65_536; bytes += 4_000) Buffer.allocUnsafe(4_000);
  }
  expect(heldNow() - before).toBeLessThan(4 * 2 ** 20);
  expect(held.length).toBe(1_000);
});

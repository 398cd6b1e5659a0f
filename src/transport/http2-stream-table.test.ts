import * as fc from "fast-check";
import { expect, test } from "vitest";
import { StreamTable } from "./http2-stream-table.ts";

test("whatever comes and goes, it holds what a Map holds", () => {
  const step = fc.record({
    // Few numbers meet again, and some of them share a place.
    id: fc.oneof(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 2_147_483_647 })),
    what: fc.constantFrom("set", "set", "delete", "get", "clear"),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 400 }), (steps) => {
      const table = new StreamTable<{ id: number; at: number }>();
      const map = new Map<number, { id: number; at: number }>();
      for (const [at, { id, what }] of steps.entries()) {
        if (what === "set") {
          table.set({ id, at });
          map.set(id, { id, at });
        } else if (what === "delete") {
          table.delete(id);
          map.delete(id);
        } else if (what === "clear" && id % 7 === 0) {
          table.clear();
          map.clear();
        }
        expect([table.size, table.get(id)]).toEqual([map.size, map.get(id)]);
      }
      const byId = (a: { id: number }, b: { id: number }): number => a.id - b.id;
      expect(table.values().toSorted(byId)).toEqual([...map.values()].toSorted(byId));
      for (const [id, value] of map) expect(table.get(id)).toEqual(value);
    }),
  );
});

test("a thousand streams that all have their place at one slot are found, and leave one after the other", () => {
  const home = (id: number): number => (Math.imul(id, 0x9e37_79b1) >>> 16) & 2_047;
  const ids: number[] = [];
  for (let id = 1; ids.length < 1_000; id += 2) if (home(id) === 0) ids.push(id);
  const table = new StreamTable<{ id: number }>();
  for (const id of ids) table.set({ id });
  for (const id of ids) expect(table.get(id)?.id).toBe(id);
  for (const [at, id] of ids.entries()) {
    table.delete(id);
    expect([table.size, table.get(id)]).toEqual([ids.length - at - 1, undefined]);
  }
});

test("what is listed stays listed while streams come and go", () => {
  const table = new StreamTable<{ id: number }>();
  for (let id = 1; id < 40; id += 2) table.set({ id });
  let seen = 0;
  for (const { id } of table.values()) {
    seen++;
    table.delete(id);
    table.set({ id: id + 100 });
  }
  expect([seen, table.size]).toEqual([20, 20]);
});

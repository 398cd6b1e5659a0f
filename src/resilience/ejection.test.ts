import * as fc from "fast-check";
import { expect, test } from "vitest";
import { defaultsOf } from "../base/options.ts";
import { leftOut, noEjections, review, type EndpointRecord } from "./ejection.ts";
import { resilienceOptions } from "./options.ts";

const limits = defaultsOf(resilienceOptions);
const does = (key: string, good: number, bad: number): EndpointRecord => ({ key, good, bad });
const keysOf = (records: readonly EndpointRecord[]): string[] => records.map((record) => record.key);

test("an endpoint that does much worse than the others is left out for thirty seconds", () => {
  const records = [does("a", 100, 0), does("b", 50, 50), does("c", 99, 1)];
  const after = review(noEjections, { records, nowMs: 1_000 }, limits);
  expect([...leftOut(after, keysOf(records), 1_000)]).toEqual(["b"]);
  expect([...leftOut(after, keysOf(records), 30_999)]).toEqual(["b"]);
  expect([...leftOut(after, keysOf(records), 31_000)]).toEqual([]);
});

test("nobody is left out when all do badly, when few requests were seen, or when it is alone", () => {
  const cases = [[does("a", 50, 50), does("b", 45, 55)], [does("a", 100, 0), does("b", 0, 19)], [does("a", 0, 100)]];
  for (const records of cases) {
    expect(review(noEjections, { records, nowMs: 0 }, limits).size).toBe(0);
  }
});

test("of two bad ones among three only the worst is left out, because more than half must stay", () => {
  const records = [does("a", 1_000, 0), does("b", 50, 50), does("c", 10, 90)];
  const after = review(noEjections, { records, nowMs: 0 }, limits);
  expect([...leftOut(after, keysOf(records), 0)]).toEqual(["c"]);
});

test("a second ejection lasts longer, and time without one forgives", () => {
  const bad = [does("a", 100, 0), does("b", 0, 100)];
  const good = [does("a", 100, 0), does("b", 100, 0)];
  const once = review(noEjections, { records: bad, nowMs: 0 }, limits);
  const twice = review(once, { records: bad, nowMs: 30_000 }, limits);
  expect(twice.get("b")).toEqual({ untilMs: 90_000, times: 2 });
  expect(review(twice, { records: good, nowMs: 120_000 }, limits).has("b")).toBe(true);
  expect(review(twice, { records: good, nowMs: 150_000 }, limits).has("b")).toBe(false);
});

test("at most half are left out and never the last, for any records and any later list", () => {
  const record = fc.record({ key: fc.string({ maxLength: 3 }), good: fc.nat(200), bad: fc.nat(200) });
  const records = fc.uniqueArray(record, { selector: (it) => it.key, maxLength: 12 });
  fc.assert(
    fc.property(fc.array(records, { maxLength: 6 }), records, (reviews, later) => {
      let ejections = noEjections;
      let nowMs = 0;
      for (const seen of reviews) {
        ejections = review(ejections, { records: seen, nowMs }, limits);
        expect(leftOut(ejections, keysOf(seen), nowMs).size).toBeLessThanOrEqual(seen.length / 2);
        nowMs += 10_000;
      }
      expect(leftOut(ejections, keysOf(later), nowMs).size).toBeLessThanOrEqual(later.length / 2);
    }),
  );
});

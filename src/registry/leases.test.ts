import * as fc from "fast-check";
import { expect, test } from "vitest";
import { holdAfterLoss, holdAfterStart, lapse, type Lease } from "./leases.ts";

const limits = { graceMs: 30_000, reconnectWindowMs: 60_000, massLossRatio: 0.15, massLossMin: 2 };
const free = { atMs: 100, heldUntilMs: 0 };

function lease(instance: string, over: Partial<Lease> = {}): Lease {
  return { instance, connected: true, endsAtMs: 0, offered: true, stale: false, ...over };
}

test("a lease whose stream stands never ends", () => {
  expect(lapse([lease("a", { endsAtMs: 1 }), lease("b")], free)).toEqual({ ended: [], stale: [] });
});

test("a lease ends with its grace period when another endpoint is left", () => {
  const gone = lease("a", { connected: false, endsAtMs: 100 });
  expect(lapse([gone, lease("b")], free)).toEqual({ ended: ["a"], stale: [] });
  expect(lapse([gone, lease("b")], { atMs: 99, heldUntilMs: 0 })).toEqual({ ended: [], stale: [] });
});

test("the last endpoints of a service stay, marked stale once", () => {
  const a = lease("a", { connected: false, endsAtMs: 1 });
  const b = lease("b", { connected: false, endsAtMs: 2 });
  expect(lapse([a, b], free)).toEqual({ ended: [], stale: ["a", "b"] });
  expect(lapse([{ ...a, stale: true }, b], free)).toEqual({ ended: [], stale: ["b"] });
});

test("stale endpoints go as soon as one is alive again", () => {
  const old = lease("a", { connected: false, endsAtMs: 1, stale: true });
  expect(lapse([old, lease("b")], free)).toEqual({ ended: ["a"], stale: [] });
});

test("an endpoint that nobody is told of keeps no other one from staying", () => {
  const last = lease("a", { connected: false, endsAtMs: 1 });
  const draining = lease("b", { offered: false });
  expect(lapse([last, draining], free)).toEqual({ ended: [], stale: ["a"] });
});

test("a draining endpoint whose lease ended goes, also as the last", () => {
  expect(lapse([lease("a", { connected: false, endsAtMs: 1, offered: false })], free)).toEqual({
    ended: ["a"],
    stale: [],
  });
});

test("no lease ends while the hold lasts", () => {
  const gone = lease("a", { connected: false, endsAtMs: 1 });
  expect(lapse([gone, lease("b")], { atMs: 100, heldUntilMs: 101 })).toEqual({ ended: [], stale: [] });
});

test("whatever the leases, a service that offered an endpoint still offers one", () => {
  const any = fc.record({ connected: fc.boolean(), endsAtMs: fc.nat(200), offered: fc.boolean(), stale: fc.boolean() });
  fc.assert(
    fc.property(fc.array(any, { maxLength: 8 }), (parts) => {
      const leases = parts.map((part, index) => lease(`i${index}`, part));
      const { ended, stale } = lapse(leases, free);
      const left = leases.filter((each) => !ended.includes(each.instance));
      expect(left.some((each) => each.offered)).toBe(leases.some((each) => each.offered));
      expect(ended.filter((instance) => stale.includes(instance))).toEqual([]);
      for (const each of leases) if (each.connected) expect(left).toContain(each);
    }),
  );
});

test("after a start no lease ends for a whole reconnect window", () => {
  expect(holdAfterStart(5_000, limits)).toEqual({ heldUntilMs: 65_000, losses: [] });
});

test("one stream in a hundred that ends holds nothing up", () => {
  const start = { heldUntilMs: 0, losses: [] };
  expect(holdAfterLoss(start, { atMs: 1_000, streamsLeft: 99 }, limits).heldUntilMs).toBe(0);
});

test("more than 15 % of the streams within one grace period hold all leases", () => {
  let hold = holdAfterStart(-60_000, limits);
  for (let lost = 1; lost <= 15; lost++)
    hold = holdAfterLoss(hold, { atMs: lost * 1_000, streamsLeft: 100 - lost }, limits);
  expect(hold.heldUntilMs).toBe(0);
  hold = holdAfterLoss(hold, { atMs: 16_000, streamsLeft: 84 }, limits);
  expect(hold.heldUntilMs).toBe(76_000);
});

test("in a mesh of three one lost stream holds nothing up, and a second within a grace period does", () => {
  const one = holdAfterLoss({ heldUntilMs: 0, losses: [] }, { atMs: 1_000, streamsLeft: 2 }, limits);
  expect(one.heldUntilMs).toBe(0);
  expect(holdAfterLoss(one, { atMs: 30_000, streamsLeft: 1 }, limits).heldUntilMs).toBe(90_000);
  expect(holdAfterLoss(one, { atMs: 40_000, streamsLeft: 1 }, limits).heldUntilMs).toBe(0);
});

test("losses of an earlier grace period are forgotten", () => {
  let hold = holdAfterStart(-60_000, limits);
  for (let lost = 0; lost < 15; lost++) hold = holdAfterLoss(hold, { atMs: 0, streamsLeft: 99 }, limits);
  expect(holdAfterLoss(hold, { atMs: 30_000, streamsLeft: 99 }, limits)).toEqual({
    heldUntilMs: 0,
    losses: [{ sinceMs: 30_000, count: 1 }],
  });
});

test("ten thousand losses at once are remembered in a few slices", () => {
  let hold = holdAfterStart(0, limits);
  for (let lost = 0; lost < 10_000; lost++)
    hold = holdAfterLoss(hold, { atMs: lost * 3, streamsLeft: 10_000 - lost }, limits);
  expect(hold.losses.length).toBeLessThan(20);
});

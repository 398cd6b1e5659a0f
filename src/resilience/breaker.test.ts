import * as fc from "fast-check";
import { expect, test } from "vitest";
import { defaultsOf } from "../base/options.ts";
import { Breaker, lossFails, refusedTicket, statusFails } from "./breaker.ts";
import { resilienceOptions } from "./options.ts";

const limits = defaultsOf(resilienceOptions);

function fail(breaker: Breaker, times: number, nowMs: number): void {
  for (let i = 0; i < times; i++) breaker.learn(breaker.enter(nowMs), false, nowMs);
}

test("five failures in a row open it, four do not", () => {
  const breaker = new Breaker(limits);
  fail(breaker, 4, 0);
  expect(breaker.state).toBe("closed");
  fail(breaker, 1, 0);
  expect(breaker.state).toBe("open");
  expect(breaker.enter(4_999)).toBe(refusedTicket);
  expect(breaker.admits(4_999)).toBe(false);
});

test("a good answer between failures starts the row anew", () => {
  const breaker = new Breaker(limits);
  fail(breaker, 4, 0);
  breaker.learn(breaker.enter(0), true, 0);
  fail(breaker, 4, 0);
  expect(breaker.state).toBe("closed");
});

test("a success rate under 0.8 opens it once twenty requests are in the window, not before", () => {
  const breaker = new Breaker(limits);
  // Every third one fails: never five in a row.
  for (let i = 1; i < 21; i++) {
    breaker.learn(breaker.enter(i * 10), i % 3 !== 0, i * 10);
    expect(breaker.state).toBe("closed");
  }
  breaker.learn(breaker.enter(210), false, 210);
  expect(breaker.state).toBe("open");
});

test("failures that slid out of the window no longer count", () => {
  const breaker = new Breaker(limits);
  for (let i = 0; i < 12; i++) breaker.learn(breaker.enter(0), i % 3 === 0, 0);
  for (let i = 0; i < 15; i++) breaker.learn(breaker.enter(10_000), true, 10_000);
  breaker.learn(breaker.enter(10_000), false, 10_000);
  expect(breaker.state).toBe("closed");
  expect([breaker.good(10_000), breaker.bad(10_000)]).toEqual([15, 1]);
});

test("one probe passes after the open span, and a second only after its answer", () => {
  const breaker = new Breaker(limits);
  fail(breaker, 5, 0);
  const probe = breaker.enter(5_000);
  expect(probe).not.toBe(refusedTicket);
  expect(breaker.state).toBe("probing");
  expect(breaker.enter(5_001)).toBe(refusedTicket);
  breaker.learn(probe, true, 5_100);
  expect(breaker.state).toBe("closed");
  expect(breaker.enter(5_100)).not.toBe(refusedTicket);
});

test("each failed probe doubles the open span, up to sixty seconds", () => {
  const breaker = new Breaker(limits);
  let nowMs = 0;
  fail(breaker, 5, nowMs);
  const spans: number[] = [];
  for (let i = 0; i < 6; i++) {
    const openedMs = nowMs;
    while (!breaker.admits(nowMs)) nowMs += 500;
    spans.push(nowMs - openedMs);
    fail(breaker, 1, nowMs);
  }
  expect(spans).toEqual([5_000, 10_000, 20_000, 40_000, 60_000, 60_000]);
});

test("a good probe forgets the doubling and the window that opened it", () => {
  const breaker = new Breaker(limits);
  fail(breaker, 5, 0);
  fail(breaker, 1, 5_000);
  breaker.learn(breaker.enter(15_000), true, 15_000);
  expect(breaker.trips).toBe(0);
  expect(breaker.bad(15_000)).toBe(0);
  fail(breaker, 5, 15_000);
  expect(breaker.admits(20_000)).toBe(true);
});

test("stragglers from before it opened teach nothing, neither while open nor while probing", () => {
  const breaker = new Breaker(limits);
  const early = [breaker.enter(0), breaker.enter(0)];
  fail(breaker, 5, 0);
  breaker.learn(early[0] as number, true, 100);
  expect(breaker.state).toBe("open");
  breaker.enter(5_000);
  breaker.learn(early[1] as number, true, 5_001);
  expect(breaker.state).toBe("probing");
});

test("a probe that is given back frees its place at once, and one that is lost frees it in time", () => {
  const breaker = new Breaker(limits);
  fail(breaker, 5, 0);
  breaker.release(breaker.enter(5_000), 5_010);
  const second = breaker.enter(5_010);
  expect(second).not.toBe(refusedTicket);
  expect(breaker.enter(5_020)).toBe(refusedTicket);
  const third = breaker.enter(10_010);
  expect(third).not.toBe(refusedTicket);
  breaker.learn(second, true, 10_011);
  expect(breaker.state).toBe("probing");
});

test("no place for this caller opens nothing, is counted as bad, and ends a probe", () => {
  const breaker = new Breaker(limits);
  for (let i = 0; i < 100; i++) breaker.declined(breaker.enter(0), 0);
  expect([breaker.state, breaker.bad(0)]).toEqual(["closed", 100]);
  expect(breaker.bad(limits.breakerWindowMs)).toBe(0);
  fail(breaker, 5, 0);
  const probe = breaker.enter(5_000);
  breaker.declined(probe, 5_000);
  expect([breaker.state, breaker.bad(5_000)]).toEqual(["closed", 1]);
});

test("a request given back while closed changes nothing", () => {
  const breaker = new Breaker(limits);
  breaker.release(breaker.enter(0), 0);
  expect(breaker.state).toBe("closed");
  expect(breaker.enter(0)).not.toBe(refusedTicket);
});

test("every change of state is told once, with its time", () => {
  const told: string[] = [];
  const breaker = new Breaker(limits, (state, nowMs) => told.push(`${state}@${nowMs}`));
  fail(breaker, 5, 7);
  breaker.learn(breaker.enter(5_007), true, 5_008);
  expect(told).toEqual(["open@7", "probing@5007", "closed@5008"]);
});

test("gateway statuses and every loss but a cancelled one count against the endpoint", () => {
  expect([200, 404, 429, 500, 501, 502, 503, 504, 505].filter(statusFails)).toEqual([502, 503, 504]);
  expect((["unprocessed", "lost", "invalid", "cancelled"] as const).filter(lossFails)).toEqual([
    "unprocessed",
    "lost",
    "invalid",
  ]);
});

test("whatever happens, it lets a request pass again within sixty seconds of the last one", () => {
  const step = fc.record({ do: fc.constantFrom("enter", "good", "bad", "release"), afterMs: fc.nat(20_000) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const breaker = new Breaker(limits);
      const tickets: number[] = [];
      let nowMs = 0;
      for (const { do: what, afterMs } of steps) {
        nowMs += afterMs;
        if (what === "enter") {
          const ticket = breaker.enter(nowMs);
          if (ticket !== refusedTicket) tickets.push(ticket);
          continue;
        }
        const ticket = tickets.shift();
        if (ticket === undefined) continue;
        if (what === "release") breaker.release(ticket, nowMs);
        else breaker.learn(ticket, what === "good", nowMs);
      }
      expect(breaker.admits(nowMs + limits.breakerOpenMaxMs)).toBe(true);
    }),
  );
});

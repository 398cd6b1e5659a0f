import * as fc from "fast-check";
import { expect, test } from "vitest";
import { defaultsOf } from "../base/options.ts";
import { resilienceOptions } from "./options.ts";
import { mayRetry, RetryBudget, whyNoRetry, type Attempt } from "./retry.ts";

const limits = defaultsOf(resilienceOptions);
const lostGet: Attempt = { method: "GET", loss: "lost", headWritten: false, bodyReplayable: true, attempt: 1 };

test("what provably was not processed is retried for every method", () => {
  for (const method of ["GET", "POST", "PATCH", "CONNECT", "LINK"]) {
    expect(mayRetry({ ...lostGet, method, loss: "unprocessed" })).toBe(true);
  }
});

test("a lost request is retried only when its method is idempotent", () => {
  for (const method of ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]) {
    expect(mayRetry({ ...lostGet, method })).toBe(true);
  }
  for (const method of ["POST", "PATCH", "CONNECT", "get", "QUERY"]) {
    expect(mayRetry({ ...lostGet, method })).toBe(false);
  }
});

test("502, 503 and 504 are retried for idempotent methods, other statuses for none", () => {
  const answered = (method: string, status: number): boolean =>
    mayRetry({ method, status, headWritten: false, bodyReplayable: true, attempt: 1 });
  for (const status of [502, 503, 504])
    expect([answered("GET", status), answered("POST", status)]).toEqual([true, false]);
  for (const status of [200, 404, 408, 429, 500, 501]) expect(answered("GET", status)).toBe(false);
});

test("nothing is retried once the answer's head was written, the body is gone, or the workload went away", () => {
  for (const loss of ["lost", "unprocessed", "invalid"] as const) {
    expect(mayRetry({ ...lostGet, loss, headWritten: true })).toBe(false);
    expect(mayRetry({ ...lostGet, loss, bodyReplayable: false })).toBe(false);
  }
  expect(mayRetry({ ...lostGet, loss: "cancelled" })).toBe(false);
});

test("one retry is the default, and the limit is what the options say", () => {
  expect(mayRetry({ ...lostGet, attempt: 2 })).toBe(false);
  expect(mayRetry({ ...lostGet, attempt: 2 }, { retriesMax: 2 })).toBe(true);
  expect(mayRetry(lostGet, { retriesMax: 0 })).toBe(false);
});

test("a refusal to retry says why, and no refusal says nothing", () => {
  expect(whyNoRetry({ ...lostGet, method: "POST" }, limits)).toBe("the method is not idempotent");
  expect(whyNoRetry(lostGet, limits)).toBeUndefined();
});

test("a body is never sent twice unless that is safe, whatever the attempt looks like", () => {
  const attempt = fc.record({
    method: fc.constantFrom("GET", "POST", "PATCH", "PUT", "x"),
    loss: fc.constantFrom("unprocessed", "lost", "cancelled", "invalid", undefined),
    status: fc.constantFrom(undefined, 200, 500, 502, 503, 504),
    headWritten: fc.boolean(),
    bodyReplayable: fc.boolean(),
    attempt: fc.integer({ min: 1, max: 3 }),
  });
  fc.assert(
    fc.property(attempt, (it) => {
      if (!mayRetry(it, { retriesMax: 2 })) return;
      expect(it.headWritten).toBe(false);
      expect(it.bodyReplayable).toBe(true);
      expect(it.loss === "unprocessed" || ["GET", "PUT"].includes(it.method)).toBe(true);
    }),
    { numRuns: 500 },
  );
});

test("a quiet caller has its reserve and no more", () => {
  const budget = new RetryBudget(limits);
  let taken = 0;
  while (budget.withdraw(0)) taken++;
  expect(taken).toBe(100);
  expect(budget.left(0)).toBe(0);
});

test("a busy caller may retry a fifth of its requests above the reserve", () => {
  const budget = new RetryBudget(limits);
  for (let i = 0; i < 1_000; i++) budget.deposit(i);
  let taken = 0;
  while (budget.withdraw(1_000)) taken++;
  expect(taken).toBe(300);
});

test("what was spent comes back when its window is over", () => {
  const budget = new RetryBudget(limits);
  while (budget.withdraw(0));
  expect(budget.withdraw(8_999)).toBe(false);
  expect(budget.withdraw(10_000)).toBe(true);
});

import { expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { repeat } from "./clock.ts";
import { HauberkError, assert, failures, isRefusal, messageOf, refuse } from "./errors.ts";
import { defaultsOf } from "./options.ts";
import { Published } from "./published.ts";
import { randomId } from "./random.ts";

test("a published value is replaced whole, and listeners hear of it with the one before, in their order", () => {
  const published = new Published("a");
  const heard: string[] = [];
  const cancel = published.subscribe((value, before) => heard.push(`1 ${before}>${value}`));
  published.subscribe((value) => heard.push(`2 ${value} ${published.read()}`));
  published.publish("b");
  cancel();
  published.publish("c");
  expect(heard).toEqual(["1 a>b", "2 b b", "2 c c"]);
  expect(published.read()).toBe("c");
});

test("a listener that throws keeps no other from hearing of the value, and the publisher hears of the first throw", () => {
  const published = new Published("a");
  const heard: string[] = [];
  published.subscribe(() => {
    throw new Error("first");
  });
  published.subscribe((value) => {
    heard.push(value);
    throw new Error("second");
  });
  published.subscribe((value) => heard.push(value));
  expect(() => published.publish("b")).toThrow("first");
  expect(heard).toEqual(["b", "b"]);
  expect(published.read()).toBe("b");
});

test("a listener that subscribes hears of later publications only", () => {
  const published = new Published(1);
  const heard: number[] = [];
  published.publish(2);
  published.subscribe((value) => heard.push(value));
  expect(heard).toEqual([]);
  published.publish(3);
  expect(heard).toEqual([3]);
});

test("a repeated task runs each time its wait has passed, and never again once cancelled", () => {
  const clock = new ManualClock();
  let runs = 0;
  const cancel = repeat(clock, 100, () => runs++);
  clock.advance(99);
  expect(runs).toBe(0);
  clock.advance(1);
  expect(runs).toBe(1);
  clock.advance(250);
  expect(runs).toBe(3);
  cancel();
  clock.advance(1_000);
  expect(runs).toBe(3);
  expect(clock.waiting).toBe(0);
});

test("a repeated task that throws is run again when its wait has passed, and can be cancelled", () => {
  const clock = new ManualClock();
  let runs = 0;
  const cancel = repeat(clock, 100, () => {
    runs++;
    throw new Error("a bug");
  });
  for (let i = 0; i < 3; i++) expect(() => clock.advance(100)).toThrow("a bug");
  expect(runs).toBe(3);
  cancel();
  clock.advance(1_000);
  expect(runs).toBe(3);
});

test("a repeated task that cancels itself is not planned again", () => {
  const clock = new ManualClock();
  let runs = 0;
  const cancel = repeat(clock, 10, () => {
    runs++;
    cancel();
  });
  clock.advance(100);
  expect(runs).toBe(1);
  expect(clock.waiting).toBe(0);
});

test("a refusal is a value that says code, sentence and next step, and nothing else is one", () => {
  const refusal = refuse("TOKEN_EXPIRED", "Cannot enroll: the token ended", "Ask for a new one");
  expect(isRefusal(refusal)).toBe(true);
  for (const other of [undefined, null, "x", {}, { refused: false }, new Error("x")])
    expect(isRefusal(other)).toBe(false);
  const cause = new Error("underneath");
  const error = HauberkError.from(refusal, cause);
  expect(error).toMatchObject({
    name: "HauberkError",
    code: "TOKEN_EXPIRED",
    message: refusal.message,
    hint: refusal.hint,
    cause,
  });
  expect("cause" in HauberkError.from(refusal)).toBe(false);
});

test("every code has an HTTP and a gRPC status that name an error", () => {
  for (const [code, { status, grpc }] of Object.entries(failures)) {
    expect(code).toMatch(/^[A-Z][A-Z0-9_]+$/);
    expect(status).toBeGreaterThanOrEqual(400);
    expect(status).toBeLessThan(600);
    expect(grpc).toBeGreaterThan(0);
    expect(grpc).toBeLessThanOrEqual(16);
  }
});

test("a broken invariant is thrown as a bug, a kept one is nothing", () => {
  expect(() => assert(true, "x")).not.toThrow();
  expect(() => assert(0, "zero")).toThrow(new HauberkError("BUG", "Cannot go on: zero", "Report this with the log"));
});

test("whatever was thrown has a sentence", () => {
  expect([messageOf(new Error("a")), messageOf("b"), messageOf(undefined)]).toEqual(["a", "b", "undefined"]);
});

test("the defaults of a table are one frozen object", () => {
  const values = defaultsOf({
    waitMs: { env: "A", default: 5, min: 1, max: 9, why: "because" },
    name: { kind: "text", env: "B", default: "x", form: "a word", why: "because" },
    on: { kind: "switch", env: "C", default: true, why: "because" },
  });
  expect(values).toEqual({ waitMs: 5, name: "x", on: true });
  expect(Object.isFrozen(values)).toBe(true);
});

test("an identifier has 128 bits in lower-case hexadecimal digits", () => {
  const random = new SeededRandom(1);
  const one = randomId(random);
  expect(one).toMatch(/^[0-9a-f]{32}$/);
  expect(randomId(random)).not.toBe(one);
});

import { expect, test } from "vitest";
import { ManualClock, rethrow } from "../../test/support/manual-clock.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { Alarm, Alarms } from "./alarms.ts";

class Note extends Alarm {
  rangAtMs: number | undefined;
  readonly #clock: ManualClock;
  readonly #then: (() => void) | undefined;
  constructor(clock: ManualClock, then?: () => void) {
    super();
    this.#clock = clock;
    this.#then = then;
  }
  ring(): void {
    expect(this.rangAtMs).toBeUndefined();
    this.rangAtMs = this.#clock.monotonicMs();
    this.#then?.();
  }
}

test("a thousand alarms ring once each, never early and at most one tick late, cancelled ones never", () => {
  const clock = new ManualClock();
  const random = new SeededRandom(7);
  const alarms = new Alarms(clock, rethrow);
  clock.advance(12_345.5);
  const set = Array.from({ length: 1_000 }, (_, i) => {
    const note = new Note(clock);
    const atMs = clock.monotonicMs() + random.draw() * 60_000;
    alarms.set(note, atMs);
    return { note, atMs, cancelled: i % 3 === 0 };
  });
  for (const { note, cancelled } of set) if (cancelled) alarms.cancel(note);
  for (let i = 0; i < 70; i++) clock.advance(1_000);
  for (const { note, atMs, cancelled } of set) {
    if (cancelled) expect(note.rangAtMs).toBeUndefined();
    else {
      expect(note.rangAtMs).toBeGreaterThanOrEqual(atMs);
      expect(note.rangAtMs).toBeLessThanOrEqual(atMs + 16);
    }
  }
  expect(alarms.count).toBe(0);
  expect(clock.waiting).toBe(0);
});

test("a ring may cancel and set others, itself included", () => {
  const clock = new ManualClock();
  const alarms = new Alarms(clock, rethrow);
  const other = new Note(clock);
  const again = new Note(clock);
  const first = new Note(clock, () => {
    alarms.cancel(other);
    alarms.set(again, clock.monotonicMs() + 5);
  });
  alarms.set(first, 10);
  alarms.set(other, 10);
  clock.advance(100);
  expect(other.rangAtMs).toBeUndefined();
  expect(again.rangAtMs).toBeDefined();
});

test("an alarm that is set again counts once", () => {
  const clock = new ManualClock();
  const alarms = new Alarms(clock, rethrow);
  const note = new Note(clock);
  alarms.set(note, 10);
  alarms.set(note, 1_000);
  expect(alarms.count).toBe(1);
  clock.advance(500);
  expect(note.rangAtMs).toBeUndefined();
  clock.advance(600);
  expect(note.rangAtMs).toBeDefined();
});

test("a ring that throws is told of, and keeps neither its neighbours nor later ones from ringing", () => {
  const clock = new ManualClock();
  const faults: unknown[] = [];
  const alarms = new Alarms(clock, (thrown) => faults.push(thrown));
  const notes = [
    new Note(clock),
    new Note(clock, () => {
      throw new Error("a bug");
    }),
    new Note(clock),
  ];
  for (const note of notes) alarms.set(note, 100);
  const later = new Note(clock);
  alarms.set(later, 500);
  for (let i = 0; i < 10; i++) clock.advance(100);
  expect([...notes, later].map(({ rangAtMs }) => rangAtMs !== undefined)).toEqual([true, true, true, true]);
  expect(faults).toEqual([new Error("a bug")]);
});

import { expect } from "vitest";
import { drainAtMs, renewAtMs, retryAtMs, retryWindowMs, type Life } from "../../src/resilience/renewal.ts";
import { ManualClock } from "../support/manual-clock.ts";
import type { SeededRandom } from "../support/seeded-random.ts";
import { simulate } from "./seeds.ts";

const minute = 60_000;
const hour = 60 * minute;
const lifetimesMs = [5_000, 30_000, 5 * minute, hour, 24 * hour, 7 * 24 * hour];

/** One sidecar of the model: it renews by the formula; the control plane answers or does not. */
class Sidecar {
  readonly clock: ManualClock;
  readonly random: SeededRandom;
  readonly answers: (nowMs: number) => boolean;
  readonly lifeMs: number;
  life: Life;
  readonly renewedAtMs: number[] = [];
  readonly triedAtMs: number[] = [];
  lapsedMs = 0;

  constructor(model: {
    clock: ManualClock;
    random: SeededRandom;
    lifeMs: number;
    answers: (nowMs: number) => boolean;
  }) {
    this.clock = model.clock;
    this.random = model.random;
    this.answers = model.answers;
    this.lifeMs = model.lifeMs;
    this.life = this.#issue();
    this.#plan(renewAtMs(this.life, this.random.draw()));
  }

  #issue(): Life {
    const nowMs = this.clock.wallMs();
    return { issuedAtMs: nowMs, notAfterMs: nowMs + this.lifeMs };
  }

  #plan(firstAtMs: number, atMs = firstAtMs): void {
    this.clock.after(atMs - this.clock.wallMs(), () => {
      const nowMs = this.clock.wallMs();
      this.triedAtMs.push(nowMs);
      if (!this.answers(nowMs)) {
        this.#plan(firstAtMs, retryAtMs(this.life, { firstAtMs, nowMs, draw: this.random.draw() }));
        return;
      }
      this.lapsedMs += Math.max(0, nowMs - this.life.notAfterMs);
      this.renewedAtMs.push(nowMs);
      this.life = this.#issue();
      this.#plan(renewAtMs(this.life, this.random.draw()));
    });
  }
}

simulate("no certificate of any lifetime lapses while the control plane answers", (random) => {
  for (const lifeMs of lifetimesMs) {
    const clock = new ManualClock();
    const sidecar = new Sidecar({ clock, random, lifeMs, answers: () => true });
    clock.advance(lifeMs * 50);
    expect(sidecar.lapsedMs).toBe(0);
    // Between 50 / 0.75 and 50 / 0.5 renewals in fifty lives.
    expect(sidecar.renewedAtMs.length).toBeGreaterThanOrEqual(66);
    expect(sidecar.renewedAtMs.length).toBeLessThanOrEqual(100);
  }
});

simulate("an outage of a fifth of the life lapses nothing, at any moment of it", (random) => {
  for (const lifeMs of lifetimesMs) {
    const clock = new ManualClock();
    const fromMs = clock.wallMs() + lifeMs * (1 + random.draw());
    const answers = (nowMs: number): boolean =>
      nowMs < fromMs || nowMs >= fromMs + lifeMs / 5 - 2 * retryWindowMs({ issuedAtMs: 0, notAfterMs: lifeMs });
    const sidecar = new Sidecar({ clock, random, lifeMs, answers });
    clock.advance(lifeMs * 10);
    expect(sidecar.lapsedMs).toBe(0);
  }
});

simulate(
  "failing renewals are tried once per window, for ever, and succeed within two windows of the return",
  (random) => {
    for (const lifeMs of [5_000, 5 * minute, 24 * hour]) {
      const clock = new ManualClock();
      const startMs = clock.wallMs();
      const backMs = startMs + lifeMs * 3;
      const sidecar = new Sidecar({ clock, random, lifeMs, answers: (nowMs) => nowMs >= backMs });
      const windowMs = retryWindowMs(sidecar.life);
      const firstLife = sidecar.life;
      clock.advance(lifeMs * 3 + 2 * windowMs);
      expect(sidecar.renewedAtMs.length).toBeGreaterThan(0);
      const [first = 0, ...later] = sidecar.triedAtMs.filter((atMs) => atMs <= (sidecar.renewedAtMs[0] as number));
      const windows = later.map((atMs) => Math.floor((atMs - first) / windowMs + 1e-6));
      expect(new Set(windows).size).toBe(windows.length);
      expect(windows.length).toBeGreaterThan((backMs - renewAtMs(firstLife, 1)) / windowMs - 2);
    }
  },
);

simulate(
  "a fleet of a thousand that started together spreads its renewals, and again after an outage for all",
  (random) => {
    const lifeMs = hour;
    const clock = new ManualClock();
    const startMs = clock.wallMs();
    const backMs = startMs + 48 * minute; // After the last first try.
    const sidecars = Array.from(
      { length: 1_000 },
      () => new Sidecar({ clock, random, lifeMs, answers: (nowMs) => nowMs >= backMs }),
    );
    clock.advance(49 * minute);
    const renewed = sidecars.map((sidecar) => sidecar.renewedAtMs[0] as number);
    expect(Math.max(...renewed) - backMs).toBeLessThanOrEqual(60_000);
    expect(mostPer(renewed, 1_000)).toBeLessThan(75); // A thousand over sixty seconds, early ones more often.
    expect(sidecars.every((sidecar) => sidecar.lapsedMs === 0)).toBe(true);
    const firstTries = sidecars.map((sidecar) => sidecar.triedAtMs[0] as number);
    expect(Math.min(...firstTries)).toBeGreaterThanOrEqual(startMs + 30 * minute);
    expect(Math.max(...firstTries)).toBeLessThan(startMs + 45 * minute);
    expect(mostPer(firstTries, 15_000)).toBeLessThan(40); // 16.7 on average.
  },
  1,
);

simulate("a connection begins to drain after the renewal and before the end, at every lifetime", (random) => {
  for (const lifeMs of lifetimesMs) {
    const life = { issuedAtMs: 0, notAfterMs: lifeMs };
    expect(drainAtMs(life)).toBeGreaterThan(renewAtMs(life, random.draw()));
    expect(drainAtMs(life)).toBeLessThan(life.notAfterMs);
  }
});

function mostPer(moments: readonly number[], spanMs: number): number {
  const counts = new Map<number, number>();
  for (const atMs of moments) counts.set(Math.floor(atMs / spanMs), (counts.get(Math.floor(atMs / spanMs)) ?? 0) + 1);
  return Math.max(...counts.values());
}

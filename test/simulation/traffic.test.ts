import { expect } from "vitest";
import { leastConnections } from "../../src/balancing/least-connections.ts";
import { roundRobin } from "../../src/balancing/round-robin.ts";
import type { Balancer } from "../../src/balancing/balancer.ts";
import { defaultsOf } from "../../src/base/options.ts";
import { backoffMs } from "../../src/resilience/backoff.ts";
import { Breaker, refusedTicket, type BreakerState } from "../../src/resilience/breaker.ts";
import { resilienceOptions } from "../../src/resilience/options.ts";
import { mayRetry, RetryBudget } from "../../src/resilience/retry.ts";
import { ManualClock } from "../support/manual-clock.ts";
import type { SeededRandom } from "../support/seeded-random.ts";
import { simulate } from "./seeds.ts";

const limits = defaultsOf(resilienceOptions);

/** An endpoint of the model: it answers after a while, well or badly, as `fails` says at the time. */
class Endpoint {
  readonly key: string;
  readonly weight = 1;
  readonly breaker: Breaker;
  readonly turns: { state: BreakerState; atMs: number }[] = [];
  open = 0;
  served = 0;
  peak = 0;
  failShare = 0;
  answerMs = 10;

  constructor(key: string) {
    this.key = key;
    this.breaker = new Breaker(limits, (state, atMs) => this.turns.push({ state, atMs }));
  }
}

class Model {
  readonly clock = new ManualClock();
  readonly budget = new RetryBudget(limits);
  readonly endpoints: Endpoint[];
  readonly random: SeededRandom;
  readonly balancer: Balancer;
  good = 0;
  failed = 0;
  refused = 0;
  retries = 0;
  requests = 0;

  constructor(random: SeededRandom, count: number, balancer: Balancer) {
    this.random = random;
    this.balancer = balancer;
    this.endpoints = Array.from({ length: count }, (_, i) => new Endpoint(`e${i}`));
  }

  request(method = "GET"): void {
    this.requests++;
    this.budget.deposit(this.clock.monotonicMs());
    this.#attempt(method, 1);
  }

  #attempt(method: string, attempt: number, tried?: Endpoint): void {
    const nowMs = this.clock.monotonicMs();
    const admitted = this.endpoints.filter((endpoint) => endpoint.breaker.admits(nowMs));
    // A retry goes elsewhere while there is an elsewhere: else round robin may come back to the dead one.
    const others = admitted.filter((endpoint) => endpoint !== tried);
    const ready = others.length > 0 ? others : admitted;
    const endpoint = this.balancer.pick(ready, () => this.random.draw());
    if (endpoint === undefined) {
      this.refused++;
      return;
    }
    const ticket = endpoint.breaker.enter(nowMs);
    expect(ticket).not.toBe(refusedTicket);
    endpoint.open++;
    endpoint.peak = Math.max(endpoint.peak, endpoint.open);
    this.clock.after(endpoint.answerMs * (0.5 + this.random.draw()), () => {
      endpoint.open--;
      endpoint.served++;
      const ok = this.random.draw() >= endpoint.failShare;
      endpoint.breaker.learn(ticket, ok, this.clock.monotonicMs());
      if (ok) this.good++;
      else this.#failedOnce(method, attempt, endpoint);
    });
  }

  #failedOnce(method: string, attempt: number, endpoint: Endpoint): void {
    const again = mayRetry({ method, loss: "lost", headWritten: false, bodyReplayable: true, attempt }, limits);
    if (!again || !this.budget.withdraw(this.clock.monotonicMs())) {
      this.failed++;
      return;
    }
    this.retries++;
    this.clock.after(backoffMs({ attempt, draw: this.random.draw() }), () =>
      this.#attempt(method, attempt + 1, endpoint),
    );
  }

  run(durationMs: number, perSecond: number, method = "GET"): void {
    const stepMs = 1_000 / perSecond;
    for (let passedMs = 0; passedMs < durationMs; passedMs += stepMs) {
      this.request(method);
      this.clock.advance(stepMs);
    }
  }

  settle(): void {
    this.clock.advance(120_000);
  }
}

simulate("one dead endpoint of four loses no GET, and its breaker sees a handful of requests", (random) => {
  const model = new Model(random, 4, roundRobin());
  model.run(2_000, 100);
  const dead = model.endpoints[2] as Endpoint;
  dead.failShare = 1;
  const before = dead.served;
  model.run(4_000, 100);
  model.settle();
  expect(model.failed + model.refused).toBe(0);
  expect(dead.turns[0]?.state).toBe("open");
  expect(dead.served - before).toBeLessThan(12);
});

simulate("a POST in flight on a dead endpoint fails once and is never sent twice", (random) => {
  const model = new Model(random, 2, roundRobin());
  (model.endpoints[0] as Endpoint).failShare = 1;
  model.run(3_000, 50, "POST");
  model.settle();
  expect(model.retries).toBe(0);
  const served = model.endpoints.reduce((sum, endpoint) => sum + endpoint.served, 0);
  expect(served + model.refused).toBe(model.requests);
});

simulate(
  "a service that is wholly down gets no more retries than a fifth of the requests and the reserve",
  (random) => {
    const model = new Model(random, 3, leastConnections());
    for (const endpoint of model.endpoints) endpoint.failShare = 1;
    model.run(10_000, 400);
    model.settle();
    expect(model.good).toBe(0);
    expect(model.retries).toBeLessThanOrEqual(model.requests * limits.retryBudgetRatio + limits.retryReserveMax);
    // Open breakers answer at once: nearly nothing reaches the endpoints.
    expect(model.refused).toBeGreaterThan(model.requests * 0.95);
  },
);

simulate("probes to a dead endpoint come 5, 10, 20, 40 and then 60 seconds apart", (random) => {
  const model = new Model(random, 2, roundRobin());
  const dead = model.endpoints[0] as Endpoint;
  dead.failShare = 1;
  model.run(250_000, 20);
  const opened = dead.turns.filter((turn) => turn.state === "open").map((turn) => turn.atMs);
  const gaps = opened.slice(1).map((atMs, i) => Math.round((atMs - (opened[i] as number)) / 1_000));
  expect(gaps.slice(0, 5)).toEqual([5, 10, 20, 40, 60]);
  expect(model.failed).toBe(0);
});

simulate("an endpoint that came back takes its share again after one good probe", (random) => {
  const model = new Model(random, 3, roundRobin());
  const flaky = model.endpoints[1] as Endpoint;
  flaky.failShare = 1;
  model.run(2_000, 100);
  flaky.failShare = 0;
  model.run(6_000, 100);
  expect(flaky.breaker.state).toBe("closed");
  const before = flaky.served;
  model.run(3_000, 100);
  expect(flaky.served - before).toBeGreaterThan(90);
});

simulate(
  "least connections keeps a slow endpoint from filling up, where round robin does not",
  (random) => {
    const peakOfSlow = (balancer: Balancer): number => {
      const model = new Model(random, 5, balancer);
      (model.endpoints[0] as Endpoint).answerMs = 500;
      model.run(5_000, 200);
      model.settle();
      expect(model.good).toBe(model.requests);
      return (model.endpoints[0] as Endpoint).peak;
    };
    expect(peakOfSlow(leastConnections())).toBeLessThan(6);
    expect(peakOfSlow(roundRobin())).toBeGreaterThan(15);
  },
  5,
);

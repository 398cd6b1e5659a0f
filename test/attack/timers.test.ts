import * as fc from "fast-check";
import { expect, test } from "vitest";
import { fieldOf } from "../../src/http/message.ts";
import type { Loss } from "../../src/transport/exchange.ts";
import { connectFailed } from "../../src/proxy/hop.ts";
import type { FakeClientExchange } from "../support/exchanges.ts";
import { ordersFor, outboundBench, twoEndpoints } from "../support/outbound.ts";

/** Row 34 (CVE-2024-23322): a deadline that passes while a retry waits, dials, or is answered, in every order. */

type Step =
  | { readonly do: "wait"; readonly ms: number }
  | { readonly do: "lose"; readonly kind: Loss["kind"] }
  | { readonly do: "answer"; readonly status: number; readonly end: boolean }
  | { readonly do: "inform" | "body" | "leave" | "settle" | "close" }
  | { readonly do: "dials"; readonly fail: boolean };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("wait" as const),
      ms: fc.constantFrom(0, 1, 5, 10, 24, 25, 26, 49, 50, 51, 100),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant("lose" as const),
      kind: fc.constantFrom<Loss["kind"]>("unprocessed", "lost", "invalid"),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("answer" as const),
      status: fc.constantFrom(200, 502, 503, 504),
      end: fc.boolean(),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.constantFrom(
      { do: "settle" as const },
      { do: "body" as const },
      { do: "inform" as const },
      { do: "close" as const },
    ),
  },
  { weight: 1, arbitrary: fc.constant({ do: "leave" as const }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("dials" as const), fail: fc.boolean() }) },
);

test("in every order of deadline, back-off, dial, loss and answer a request is answered once, and nothing is sent after it (row 34)", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 3, maxLength: 25 }),
      fc.constantFrom(undefined, "1", "10", "50", "75"),
      fc.constantFrom("GET", "POST"),
      fc.nat(),
      async (steps, timeoutMs, method, seed) => {
        const bench = outboundBench({ seed, options: { requestTimeoutMs: 50 }, resilience: { retriesMax: 5 } });
        bench.publish(ordersFor(twoEndpoints));
        const fields = timeoutMs === undefined ? [] : ["x-hauberk-timeout-ms", timeoutMs];
        // A second head, or a body without one, throws in the test's own exchange.
        const exchange = bench.ask({ method, fields });
        const sent = (): FakeClientExchange[] => bench.opened.flatMap(({ connection }) => connection.requests);
        const answered = new Set<FakeClientExchange>();
        let sentWhenOver = -1;
        const noteEnd = (): void => {
          if (exchange.over !== "no" && sentWhenOver < 0) sentWhenOver = sent().length;
        };
        for (const one of steps) {
          const live = sent().findLast((candidate) => !candidate.over && candidate.aborted === undefined);
          if (one.do === "wait") bench.clock.advance(one.ms);
          else if (one.do === "settle") await bench.settle();
          else if (one.do === "leave") exchange.leave();
          else if (one.do === "dials") bench.dialling = () => (one.fail ? connectFailed("in the test") : undefined);
          else if (one.do === "lose") live?.lose(one.kind);
          else if (one.do === "answer") {
            // No connection tells of a second head.
            if (live !== undefined && !answered.has(live)) live.respond(one.status, [], one.end);
            if (live !== undefined) answered.add(live);
          } else if (one.do === "inform") live?.inform(103);
          else if (one.do === "close") live?.connection.close();
          else if (exchange.answer !== undefined) live?.data("x");
          noteEnd();
        }
        for (let i = 0; i < 6; i++) {
          await bench.settle();
          bench.clock.advance(100);
          noteEnd();
        }
        // Answered in time, or refused when it was over: only a body that has begun may still stream.
        const streaming = exchange.over === "no" && exchange.answer !== undefined;
        if (!streaming) {
          expect(exchange.over).not.toBe("no");
          expect(sent()).toHaveLength(sentWhenOver);
          expect(bench.context.openRequests.value).toBe(0);
          expect(bench.context.alarms.count).toBe(0);
          for (const { endpoints } of bench.context.upstreams.all)
            for (const { open, hop } of endpoints) expect([open, hop.waiting]).toEqual([0, 0]);
        }
        const code = fieldOf(exchange.answer?.fields ?? [], "x-hauberk-code");
        if (code === "DEADLINE_EXCEEDED")
          for (const one of sent()) expect(one.over || one.aborted !== undefined).toBe(true);
      },
    ),
    { numRuns: 400, seed: 20_261_123 },
  );
});

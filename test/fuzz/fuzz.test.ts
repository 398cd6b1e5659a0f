import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { beyondExamples, beyondPage, kindOfRefusal, refusalOf } from "./http1-beyond.ts";
import { llhttpRequests, llhttpResponses } from "./read-http1.ts";
import { runFuzz } from "./run.ts";
import { target } from "./target.ts";
import { targets } from "./targets.ts";

const page = fileURLToPath(new URL("../../docs/HTTP1.md", import.meta.url));

describe("of a few seconds of fuzz (npm run fuzz has the rest)", () => {
  for (const one of targets) {
    test(`${one.name}: ${one.says}`, async () => {
      const cases = Math.max(15, Math.round(one.share * 250));
      const { findings } = await runFuzz({ cases, seed: 20_261_123, targets: [one], progress: () => undefined });
      expect(findings).toEqual([]);
    });
  }
});

test("a finding names its target, a seed and a path that lead to it again, and the smallest input", async () => {
  const broken = target(
    { name: "broken", says: "no number is above 41", share: 1 },
    fc.property(fc.nat({ max: 1_000 }), (value) => {
      if (value > 41) throw new Error(`it is ${value}`);
    }),
  );
  const fine = target(
    { name: "fine", says: "yes", share: 1 },
    fc.property(fc.nat(), () => undefined),
  );
  const run = await runFuzz({ cases: 12_000, seed: 1, targets: [broken, fine], progress: () => undefined });
  expect(run.findings).toHaveLength(1);
  const [finding] = run.findings;
  expect(finding?.report).toContain("it is 42");
  expect(run.cases).toBeGreaterThan(6_000);
  const again = await runFuzz({
    cases: 1,
    seed: finding?.seed ?? 0,
    path: finding?.path,
    targets: [broken],
    progress: () => undefined,
  });
  expect([again.cases, again.findings[0]?.report.includes("it is 42")]).toEqual([1, true]);
});

test("docs/HTTP1.md lists what is refused beyond llhttp: each example is refused here, taken there, and a reason of its own", () => {
  for (const one of beyondExamples) {
    const bytes = Buffer.from(one.bytes, "latin1");
    const theirs = one.of === "request" ? llhttpRequests(bytes) : llhttpResponses("GET", bytes);
    expect([one.bytes, refusalOf(one) === undefined, theirs.failed]).toEqual([one.bytes, false, undefined]);
  }
  const kinds = beyondExamples.map((one) => `${one.of} ${kindOfRefusal(refusalOf(one) ?? "")}`);
  expect(kinds.filter((kind, at) => kinds.indexOf(kind) !== at)).toEqual([]);
  if (process.env["HAUBERK_WRITE_PAGES"] !== undefined) writeFileSync(page, beyondPage());
  expect(readFileSync(page, "utf8"), "stale: HAUBERK_WRITE_PAGES=1 npx vitest run test/fuzz").toBe(beyondPage());
});

import { expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { Faults } from "./faults.ts";
import { silent, type LogFields } from "./logger.ts";
import { Metrics } from "./metrics.ts";

function bench(error: (message: string, fields?: LogFields) => void) {
  const clock = new ManualClock();
  const metrics = new Metrics();
  const faults = new Faults({ log: { ...silent, error }, clock, metrics });
  const counted = (cost: string): number =>
    Number(new RegExp(`^hauberk_faults_total\\{cost="${cost}"\\} (\\d+)$`, "m").exec(metrics.renderPrometheus())?.[1]);
  return { clock, faults, counted };
}

test("a bug is told once with its code and its stack, the next ones of the same line with their number, and each is counted", () => {
  const lines: { message: string; fields: LogFields | undefined }[] = [];
  const { clock, faults, counted } = bench((message, fields) => lines.push({ message, fields }));
  const thrown = Array.from({ length: 5 }, (_, index) => new Error(`of ${index}`));
  for (const one of thrown) faults.connection(one);
  expect(lines).toHaveLength(1);
  expect(lines[0]?.message).toContain("connection");
  expect(lines[0]?.fields).toMatchObject({ code: "BUG", because: "of 0" });
  expect(lines[0]?.fields?.["stack"]).toContain("faults.test.ts");
  faults.request(new Error("elsewhere"), { requestId: "r1" });
  expect(lines[1]?.fields).toMatchObject({ because: "elsewhere", requestId: "r1" });
  clock.advance(60_000);
  expect(lines[2]?.fields).toMatchObject({ because: "of 4", more: 4 });
  expect([counted("connection"), counted("request"), counted("task")]).toEqual([5, 1, 0]);
});

test("what is thrown and is no error, and a log that throws, end nothing either", () => {
  const { faults, counted } = bench(() => {
    throw new Error("the log is full");
  });
  faults.task("just a text");
  faults.task(undefined);
  expect(counted("task")).toBe(2);
});

test("what is still to be said at the end is said", () => {
  const more: unknown[] = [];
  const { faults } = bench((_, fields) => more.push(fields?.["more"]));
  for (let i = 0; i < 3; i++) faults.task(new Error("again"));
  faults.stop();
  expect(more).toEqual([undefined, 2]);
});

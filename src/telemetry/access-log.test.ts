import * as fc from "fast-check";
import { expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { accessLine, AccessLog, type AccessEntry } from "./access-log.ts";

const entry: AccessEntry = {
  direction: "outbound",
  method: "GET",
  authority: "orders",
  path: "/orders/1",
  status: 403,
  code: "DENIED",
  principal: "spiffe://mesh.local/ns/default/sa/web",
  service: "orders.default",
  endpoint: "",
  policy: "default deny",
  requestId: "r-1",
  attempts: 1,
  durationMs: 1.23456,
  bytesIn: 0,
  bytesOut: 17,
};

test("a line carries the reason code and reads back as JSON", () => {
  const line = JSON.parse(accessLine(entry, 0)) as Record<string, unknown>;
  expect(line).toMatchObject({ code: "DENIED", status: 403, durationMs: 1.235, time: "1970-01-01T00:00:00.000Z" });
});

test("no request writes a second line, a control character, a long line or its query", () => {
  const text = fc.string({ unit: "binary", maxLength: 2_000 });
  fc.assert(
    fc.property(text, text, text, (method, authority, path) => {
      const line = accessLine({ ...entry, method, authority, path: `/${path}?token=hunter2` }, 0);
      // eslint-disable-next-line no-control-regex
      expect(line).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/);
      expect(line).not.toContain("hunter2");
      expect(line.length).toBeLessThan(3 * 256 * 6 + 1_000);
      expect(() => JSON.parse(line) as unknown).not.toThrow();
    }),
  );
});

test("lines wait at most a second, or until there are enough of them", () => {
  const clock = new ManualClock();
  const written: string[] = [];
  const log = new AccessLog({ enabled: true, clock, sink: (text) => written.push(text) });
  log.write(entry);
  log.write(entry);
  clock.advance(999);
  expect(written).toHaveLength(0);
  clock.advance(1);
  expect(written).toHaveLength(1);
  expect(written[0]?.split("\n")).toHaveLength(3);
  for (let i = 0; i < 100; i++) log.write(entry);
  expect(written.length).toBeGreaterThan(1);
  log.flush();
  expect(written.join("").split("\n")).toHaveLength(103);
  expect(clock.waiting).toBe(0);
});

test("one that is off writes nothing and plans nothing", () => {
  const clock = new ManualClock();
  const log = new AccessLog({ enabled: false, clock, sink: () => expect.unreachable() });
  log.write(entry);
  log.flush();
  expect(clock.waiting).toBe(0);
});

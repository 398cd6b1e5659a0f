import { expect, test } from "vitest";
import { unknownService } from "./refusals.ts";

test("who called example.io is told that it was read as a service, and how a host outside is let out", () => {
  const { code, message, hint } = unknownService("example.io");
  expect([code, message]).toEqual(["SERVICE_UNKNOWN", expect.stringContaining('"example.io"')]);
  expect(hint).toMatch(/read as the service example in the namespace io, .* let out by --egress example\.io$/);
});

test("a service of the common namespace is no host outside: nothing is said of those", () => {
  expect(unknownService("orders.default").hint).toMatch(/hauberk policy explain$/);
});

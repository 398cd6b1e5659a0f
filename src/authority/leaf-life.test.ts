import * as fc from "fast-check";
import { expect, test } from "vitest";
import { isRefusal } from "../base/errors.ts";
import { leafLife } from "./leaf-life.ts";

const day = 86_400_000;
const issuer = { notBeforeMs: Date.UTC(2026, 0, 1), notAfterMs: Date.UTC(2027, 0, 1) };
const atMs = Date.UTC(2026, 5, 1, 12, 0, 0, 345);

test("a leaf lives as long as asked, from the whole second at which it ends back", () => {
  expect(leafLife({ atMs, lifetimeMs: day, backdateMs: 60_000 }, issuer)).toEqual({
    issuedAtMs: atMs,
    notBeforeMs: Date.UTC(2026, 5, 1, 11, 59, 1),
    notAfterMs: Date.UTC(2026, 5, 2, 12, 0, 0),
  });
});

test("a leaf never outlives its issuer, and is refused with ISSUER_EXPIRED when it could not live 5 seconds", () => {
  const sign = (leftMs: number) =>
    leafLife({ atMs: issuer.notAfterMs - leftMs, lifetimeMs: day, backdateMs: 60_000 }, issuer);
  expect(sign(3_600_000)).toMatchObject({ notAfterMs: issuer.notAfterMs });
  expect(sign(5_000)).toMatchObject({ notAfterMs: issuer.notAfterMs });
  for (const leftMs of [4_999, 0, -day]) expect(sign(leftMs)).toMatchObject({ code: "ISSUER_EXPIRED" });
  expect(leafLife({ atMs: issuer.notBeforeMs - 1, lifetimeMs: day, backdateMs: 0 }, issuer)).toMatchObject({
    code: "ISSUER_EXPIRED",
  });
});

test("whatever the moment and the lifetime: within the issuer, valid now, in whole seconds, backdated by no more than 60 s and a quarter", () => {
  const moments = fc.integer({ min: issuer.notBeforeMs - day, max: issuer.notAfterMs + day });
  const lifetimes = fc.integer({ min: 5_000, max: 7 * day });
  fc.assert(
    fc.property(moments, lifetimes, fc.integer({ min: 0, max: 60_000 }), (at, lifetimeMs, backdateMs) => {
      const life = leafLife({ atMs: at, lifetimeMs, backdateMs }, issuer);
      if (isRefusal(life)) {
        expect(at < issuer.notBeforeMs || at > issuer.notAfterMs - 5_000).toBe(true);
        return;
      }
      expect(life.notBeforeMs).toBeGreaterThanOrEqual(issuer.notBeforeMs);
      expect(life.notAfterMs).toBeLessThanOrEqual(issuer.notAfterMs);
      expect(life.notBeforeMs).toBeLessThanOrEqual(at);
      expect(life.notAfterMs).toBeGreaterThan(at + 3_000);
      expect(life.notAfterMs).toBeLessThanOrEqual(at + lifetimeMs);
      expect([life.notBeforeMs % 1_000, life.notAfterMs % 1_000]).toEqual([0, 0]);
      // Within the second that X.509 cannot express.
      const backdatedMs = at - life.notBeforeMs;
      expect(backdatedMs).toBeLessThanOrEqual(Math.max(Math.min(backdateMs, (life.notAfterMs - at) / 4), 999));
    }),
  );
});

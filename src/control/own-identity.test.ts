import { expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { makeTestPki } from "../../test/support/pki.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import type { Authority } from "../authority/authority.ts";
import { silent } from "../telemetry/logger.ts";
import { OwnIdentity } from "./own-identity.ts";

test("asked to renew again while it renews, the control plane goes on with one plan and not with two", async () => {
  const pki = await makeTestPki();
  const clock = new ManualClock();
  let issued = 0;
  const authority = {
    trustDomain: pki.trustDomain,
    issueControl: () => {
      issued++;
      return Promise.resolve(pki.issue(`spiffe://${pki.trustDomain}/hauberk/control`));
    },
  } as unknown as Authority;
  const own = await OwnIdentity.start({ authority, clock, random: new SeededRandom(1), log: silent });
  own.renew();
  own.renew();
  await new Promise((resolve) => setImmediate(resolve));
  expect(issued).toBe(3);
  expect(clock.waiting).toBe(1);
  own.stop();
  expect(clock.waiting).toBe(0);
});

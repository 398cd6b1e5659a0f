import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { granted, leafOf, makeTestCa, openBench, TestWorkload, type Bench } from "../../test/support/authority.ts";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { isRefusal } from "../base/errors.ts";
import { generateKey } from "../x509/keys.ts";
import { RecoveryChallenges } from "./recovery-challenge.ts";

let made: Awaited<ReturnType<typeof makeTestCa>>;
let bench: Bench;
let workload: TestWorkload;
const day = 86_400_000;

beforeAll(async () => {
  made = await makeTestCa();
});
afterAll(() => made.remove());

const start = async (options: Parameters<typeof openBench>[1] = {}) => {
  bench = await openBench(made.ca, options);
  workload = await new TestWorkload(bench.authority).enroll();
  await bench.authority.seen(workload.leaf, "x");
};
beforeEach(() => start());
afterEach(() => bench.end());

const recover = async (...wish: Parameters<TestWorkload["recoverRequest"]>) =>
  bench.authority.recover(await workload.recoverRequest(...wish), "10.0.0.1");

test("a sidecar whose leaf expired proves its recovery key and is back without a human", async () => {
  bench.clock.advance(30 * day);
  const answer = granted(await recover());
  const leaf = leafOf(answer);
  expect(answer.instance).toBe(workload.instance);
  expect(leaf.uris).toEqual(["spiffe://mesh.test/ns/default/sa/orders"]);
  expect(isRefusal(await bench.authority.seen(leaf, "x"))).toBe(false);
  granted(await workload.renew(generateKey(), leaf));
  const lines = (await bench.authority.listAudit()).map((row) => JSON.parse(row.line) as object);
  expect(lines.at(-2)).toMatchObject({
    what: "recover",
    verdict: "issued",
    serial: leaf.serial,
    parent: null,
    instance: workload.instance,
  });
});

test("nobody recovers while a leaf that is in use is valid; the last minute of its life is forgiven to clocks", async () => {
  bench.clock.advance(day - 61_000);
  expect(await recover()).toMatchObject({ code: "RECOVERY_REFUSED" });
  bench.clock.advance(2_000);
  granted(await recover());
});

test("a leaf that was issued and never used does not bar the way, and is worth nothing afterwards", async () => {
  bench.clock.advance(day / 2);
  const lost = leafOf(granted(await workload.renew()));
  bench.clock.advance(day / 2);
  const recovered = leafOf(granted(await recover()));
  expect(await bench.store.leaf(lost.serial)).toMatchObject({ status: "superseded" });
  expect(isRefusal(await bench.authority.seen(recovered, "x"))).toBe(false);
  expect(await bench.authority.seen(lost, "x")).toMatchObject({ code: "CLONE_DETECTED" });
});

test("a challenge is good once", async () => {
  bench.clock.advance(2 * day);
  const { challenge } = granted(bench.authority.recoverChallenge());
  const requests = await Promise.all(
    Array.from({ length: 5 }, () => workload.recoverRequest(generateKey(), challenge)),
  );
  const answers = await Promise.all(requests.map((request) => bench.authority.recover(request, "x")));
  expect(answers.filter((answer) => !isRefusal(answer))).toHaveLength(1);
  expect(answers.filter(isRefusal).every(({ code }) => code === "RECOVERY_REFUSED")).toBe(true);
});

test("a challenge is short-lived, and neither forged nor respelled", async () => {
  bench.clock.advance(2 * day);
  const { challenge } = granted(bench.authority.recoverChallenge());
  const other = await openBench(made.ca, { seed: 9 });
  const foreign = granted(other.authority.recoverChallenge()).challenge;
  await other.end();
  const flipped = `${challenge.startsWith("A") ? "B" : "A"}${challenge.slice(1)}`;
  for (const bad of ["", "x", foreign, flipped, `${challenge}=`]) {
    expect(await recover(generateKey(), bad)).toMatchObject({ code: "RECOVERY_REFUSED" });
  }
  const late = await workload.recoverRequest(generateKey(), challenge);
  bench.clock.advance(60_000);
  expect(await bench.authority.recover(late, "x")).toMatchObject({ code: "RECOVERY_REFUSED" });
  expect(await bench.authority.listLeaves()).toHaveLength(1);
});

test("a proof by another key, for another request or another instance is refused, in the same words as for an instance that does not exist", async () => {
  bench.clock.advance(2 * day);
  const other = await new TestWorkload(bench.authority).enroll();
  const mine = await workload.recoverRequest();
  const theirs = await other.recoverRequest();
  const said = new Set<string>();
  for (const request of [
    { ...mine, signature: theirs.signature },
    { ...mine, csr: theirs.csr },
    { ...mine, instance: other.instance },
    { ...mine, instance: "0".repeat(32) },
    { ...mine, instance: "nonsense" },
    { ...mine, signature: "" },
    { ...mine, signature: "AAAA" },
  ]) {
    const answer = await bench.authority.recover(request, "x");
    expect(answer).toMatchObject({ code: "RECOVERY_REFUSED" });
    said.add(JSON.stringify(answer));
  }
  expect(said.size).toBe(1);
  // None of these has used the challenge up.
  granted(await bench.authority.recover(mine, "x"));
});

test("a lost answer, asked for again with the same key and a new challenge, gives the same certificate and counts once", async () => {
  bench.clock.advance(2 * day);
  const key = generateKey();
  const first = granted(await recover(key));
  expect(await recover(key)).toEqual(first);
  expect(await bench.store.instance(workload.instance)).toMatchObject({ recoveries: 1 });
});

test("a recovery with a key that had a certificate, or with the recovery key itself, is KEY_REUSED", async () => {
  bench.clock.advance(2 * day);
  expect(await recover(workload.key)).toMatchObject({ code: "KEY_REUSED" });
  expect(await recover(workload.recoveryKey)).toMatchObject({ code: "KEY_REUSED" });
});

test("recoveries are bounded within a window", async () => {
  await bench.end();
  await start({ options: { recoveriesMax: 2, recoveryWindowMs: 30 * day } });
  const codes: string[] = [];
  for (let index = 0; index < 4; index++) {
    bench.clock.advance(2 * day);
    const answer = await recover();
    codes.push(isRefusal(answer) ? answer.code : "issued");
  }
  expect(codes).toEqual(["issued", "issued", "RECOVERY_REFUSED", "RECOVERY_REFUSED"]);
  bench.clock.advance(30 * day);
  granted(await recover());
});

test("recovery can be switched off", async () => {
  await bench.end();
  await start({ options: { recovery: false } });
  bench.clock.advance(2 * day);
  expect(bench.authority.recoverChallenge()).toMatchObject({ code: "RECOVERY_DISABLED" });
  expect(await recover(generateKey(), "x")).toMatchObject({ code: "RECOVERY_DISABLED" });
  expect((await bench.authority.listAudit()).at(-1)?.line).toContain("RECOVERY_DISABLED");
});

test("used challenges are forgotten when they end, and too many of them bar the way", () => {
  const clock = new ManualClock();
  const challenges = new RecoveryChallenges({ clock, random: new SeededRandom(4), lifetimeMs: 1_000, usedMax: 2 });
  expect([1, 2, 3].map(() => challenges.use(challenges.make()))).toEqual([true, true, false]);
  clock.advance(1_000);
  expect(challenges.use(challenges.make())).toBe(true);
});

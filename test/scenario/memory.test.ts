import { afterAll, beforeAll, expect, test } from "vitest";
import {
  plainConnections,
  spareConnections,
  startSubject,
  tlsConnections,
  unreadAnswers,
  unreadRequests,
} from "../../bench/memory/measure.ts";
import { descriptorsMax, warmConnections } from "../../bench/memory/resident.ts";

/** What a sidecar holds for connections and bodies (bench/memory/measure.ts says how it is counted). */
const kb = 1024;
const mb = 1024 * kb;
// Each process has a descriptor for each connection, and some for itself.
const plain = Math.min(10_000, descriptorsMax() - 600);
// As V8's young generation grows by some megabytes, however few connections made it.
const tls = Math.min(5_000, descriptorsMax() - 3_000);
/** So many that what a collector leaves lying for a while does not count for much. */
const bodies = 100;

type Subject = Awaited<ReturnType<typeof startSubject>>;

let subject: Subject;

const start = (): Promise<Subject> =>
  startSubject({
    HAUBERK_OUTBOUND_CONNECTIONS_MAX: String(plain + warmConnections + spareConnections),
    HAUBERK_TLS_CONNECTIONS_MAX: String(tls + warmConnections + spareConnections),
    // All of them are of one identity.
    HAUBERK_PEER_SHARE_RATIO: "1",
  });

beforeAll(async () => {
  subject = await start();
});

afterAll(async () => {
  await subject.end();
});

// First, in processes that have done little: whatever grew before would not grow again.
test("an idle mTLS connection costs at most 10 KB more than in a bare node:tls server, and their number is capped", async () => {
  const { more, oneMore } = await tlsCost(subject);
  expect(oneMore).toBe("ended");
  // By when its heap grows, a process grows by some megabytes more or less: above the limit the median of three decides.
  const all =
    more < 10 * kb ? [more] : [more, await tlsCostOfFresh(), await tlsCostOfFresh()].toSorted((a, b) => a - b);
  expect(all[Math.floor(all.length / 2)]).toBeLessThan(10 * kb);
}, 240_000);

/** What an idle mTLS connection costs the inbound sidecar more than a bare server of the same run. */
async function tlsCost(at: Subject): Promise<{ more: number; oneMore: string }> {
  const { sidecar, bare } = await tlsConnections(at, tls);
  expect(bare.each).toBeGreaterThan(20 * kb);
  return { more: sidecar.each - bare.each, oneMore: sidecar.oneMore };
}

async function tlsCostOfFresh(): Promise<number> {
  const fresh = await start();
  try {
    return (await tlsCost(fresh)).more;
  } finally {
    await fresh.end();
  }
}

test("clients that do not read an answer of 1 GB cost under 2 MB each in both sidecars, and others are served meanwhile", async () => {
  const { web, orders } = await unreadAnswers(subject, bodies);
  expect(web.each).toBeLessThan(2 * mb);
  expect(orders.each).toBeLessThan(2 * mb);
});

test("requests of 1 GB that the routee does not read cost under 2 MB each in both sidecars, and others are served meanwhile", async () => {
  const { web, orders } = await unreadRequests(subject, bodies);
  expect(web.each).toBeLessThan(2 * mb);
  expect(orders.each).toBeLessThan(2 * mb);
});

test(`${plain} idle plain connections that have asked once cost under 12 KB each, and their number is capped`, async () => {
  const cost = await plainConnections(subject, plain);
  expect(cost.each).toBeLessThan(12 * kb);
  expect(cost.oneMore).toBe("ended");
});

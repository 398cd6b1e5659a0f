import { expect, test } from "vitest";
import { Slowness, type StreamMoves } from "./http2-slowness.ts";

const limits = { bodyBytesPerSecond: 64, stallMs: 300_000 };
const idle: StreamMoves = {
  head: { fields: [] },
  tunnel: false,
  answered: false,
  remoteEnded: false,
  arrived: 0,
  unconsumed: 0,
  queued: 0,
  ending: false,
  sendWindow: 0,
};

/** What is said after each of these looks, half a minute apart. */
function looks(...seen: Partial<StreamMoves>[]): (string | undefined)[] {
  const slowness = new Slowness();
  return seen.map((some) => slowness.look({ ...idle, ...some }, 30_000, limits));
}

const tooSlow = "the client sends its body too slowly";

test("a body below the rate is given up at the second look, and one above it never", () => {
  expect(looks({ arrived: 0 }, { arrived: 1_919 })).toEqual([undefined, tooSlow]);
  expect(looks({ arrived: 0 }, { arrived: 1_920 }, { arrived: 3_840 }, { arrived: 3_841 }).at(-1)).toBe(tooSlow);
  expect(looks({ arrived: 0 }, { arrived: 1_920 }, { arrived: 3_840 })).toEqual([undefined, undefined, undefined]);
});

test("who waits for its answer, was answered, or is not read by the routee is not slow", () => {
  for (const some of [{ remoteEnded: true }, { answered: true }, { unconsumed: 1 }, { tunnel: true }])
    expect(looks(...Array.from({ length: 30 }, () => some))).not.toContainEqual(expect.any(String));
});

test("an answer of which nothing is taken for five minutes is given up, and one byte begins them anew", () => {
  const stuck = { answered: true, remoteEnded: true, queued: 5, sendWindow: 0 };
  const eleven = looks(...Array.from({ length: 11 }, () => stuck));
  expect(eleven.at(-2)).toBeUndefined();
  expect(eleven.at(-1)).toBe("the client does not read its answer");
  expect(
    looks(...Array.from({ length: 40 }, (_, i) => ({ ...stuck, queued: 100 - Math.floor(i / 9) }))),
  ).not.toContainEqual(expect.any(String));
});

test("a tunnel may be silent while a direction of it is open; the last bytes of one that has ended both are read within five minutes", () => {
  const last = { tunnel: true, answered: true, remoteEnded: true, queued: 5, ending: true };
  const eleven = (some: Partial<StreamMoves>): (string | undefined)[] =>
    looks(...Array.from({ length: 11 }, () => ({ ...last, ...some })));
  expect(eleven({})).toEqual([...Array.from({ length: 10 }, () => undefined), "the client does not read its answer"]);
  for (const open of [{ remoteEnded: false }, { ending: false }])
    expect(eleven(open)).not.toContainEqual(expect.any(String));
});

test("a gRPC call may be silent for five minutes before its answer begins", () => {
  const call = { head: { fields: ["content-type", "application/grpc+proto"] } };
  const said = looks(...Array.from({ length: 11 }, () => call));
  expect(said.slice(0, -1)).not.toContainEqual(expect.any(String));
  expect(said.at(-1)).toBe("the client sends nothing of its call");
});

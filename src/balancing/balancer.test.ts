import { expect, test } from "vitest";
import { balancerContract } from "./balancer-contract.ts";
import { leastConnections } from "./least-connections.ts";
import { roundRobin } from "./round-robin.ts";

balancerContract("round robin", roundRobin);
balancerContract("least connections", leastConnections);

const idle = (keys: string): { key: string; open: number; weight: number }[] =>
  keys.split("").map((key) => ({ key, open: 0, weight: 1 }));

test("round robin visits every endpoint once before it comes back to the first", () => {
  const balancer = roundRobin();
  const list = idle("abcd");
  const picked = list.map(() => balancer.pick(list, () => 0.3)?.key);
  expect(picked.toSorted((a = "", b = "") => a.localeCompare(b))).toEqual(["a", "b", "c", "d"]);
});

test("round robin begins where the draw says, so that callers do not march in step", () => {
  const first = (draw: number): string | undefined => roundRobin().pick(idle("abcd"), () => draw)?.key;
  expect(new Set([0, 1 / 65_536, 2 / 65_536, 3 / 65_536].map(first)).size).toBe(4);
});

test("least connections finds the emptiest of eight wherever it stands", () => {
  for (let at = 0; at < 8; at++) {
    const list = idle("abcdefgh").map((candidate, i) => ({ ...candidate, open: i === at ? 2 : 3 }));
    expect(leastConnections().pick(list, () => 0)).toBe(list[at]);
    expect(leastConnections().pick(list, () => 0.999)).toBe(list[at]);
  }
});

test("least connections gives each of several ties its turn", () => {
  const balancer = leastConnections();
  const seen = new Set<string | undefined>();
  for (let i = 0; i < 64; i++) seen.add(balancer.pick(idle("abcd"), () => ((i * 7) % 16) / 16)?.key);
  expect(seen.size).toBe(4);
});

test("least connections takes the emptier of two different drawn ones above eight endpoints", () => {
  const list = idle("abcdefghij").map((candidate, i) => ({ ...candidate, open: i }));
  const draws = [0.9, 0.2];
  const picked = leastConnections().pick(list, () => draws.shift() ?? 0);
  expect(picked?.key).toBe("b"); // "j" and "b"
  const same = leastConnections().pick(list, () => 0);
  expect(same?.key).toBe("a"); // "a" and, because both must differ, "b"
});

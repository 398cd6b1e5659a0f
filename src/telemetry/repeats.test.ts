import { expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { Repeats } from "./repeats.ts";

function bench(keysMax = 3) {
  const clock = new ManualClock();
  const lines: string[] = [];
  const repeats = new Repeats({ clock, everyMs: 10_000, keysMax });
  const say = (key: string): void => repeats.say(key, (more) => lines.push(`${key} +${more}`));
  return { clock, lines, repeats, say };
}

test("the first line of a key is written at once, the others are counted and told when its while is over", () => {
  const { clock, lines, say } = bench();
  for (let i = 0; i < 100; i++) say("a");
  say("b");
  expect(lines).toEqual(["a +0", "b +0"]);
  clock.advance(10_000);
  expect(lines).toEqual(["a +0", "b +0", "a +99"]);
  for (let i = 0; i < 5; i++) say("a");
  expect(lines).toHaveLength(3);
  clock.advance(10_000);
  expect(lines.at(-1)).toBe("a +5");
});

test("a key that was quiet for a while is written at once again, and nothing runs for keys that are gone", () => {
  const { clock, lines, say } = bench();
  say("a");
  clock.advance(20_000);
  expect(clock.waiting).toBe(0);
  say("a");
  expect(lines).toEqual(["a +0", "a +0"]);
});

test("beyond the most keys that are told apart, all others count together", () => {
  const { clock, lines, say } = bench(3);
  for (let i = 0; i < 1_000; i++) say(`address ${i}`);
  expect(lines).toEqual(["address 0 +0", "address 1 +0", "address 2 +0", "address 3 +0"]);
  clock.advance(10_000);
  expect(lines.at(-1)).toBe("address 999 +996");
  expect(lines).toHaveLength(5);
});

test("what is still to be said is said at the end", () => {
  const { clock, lines, repeats, say } = bench();
  say("a");
  say("a");
  repeats.stop();
  expect(lines).toEqual(["a +0", "a +1"]);
  expect(clock.waiting).toBe(0);
});

import { expect, test } from "vitest";
import { isRefusal } from "../base/errors.ts";
import { limits } from "./limits.ts";
import { readDown } from "./read-watch.ts";
import { stateLines } from "./state-lines.ts";
import type { Down } from "./watch.ts";

const version = { epoch: "e", counter: 1 };

function read(lines: Iterable<string>): Extract<Down, { type: "full" | "delta" }>[] {
  return [...lines].map((line) => {
    expect(line.endsWith("\n")).toBe(true);
    const message = readDown(line);
    if (isRefusal(message)) throw new Error(message.message);
    if (message.type !== "full" && message.type !== "delta") throw new Error(message.type);
    return message;
  });
}

/** An unknown service each, with names that take some room. */
const names = (count: number): string[] =>
  Array.from({ length: count }, (_, index) => `service/s${index}${"x".repeat(50)}.default`);
const unknown = (keys: readonly string[]): string[] => keys.map((key) => JSON.stringify([key, null]));

test("what is small is one line, and says nothing of more", () => {
  expect([...stateLines({ type: "full", version, set: unknown(["service/a.b"]), gone: [] })]).toEqual([
    '{"type":"full","version":{"epoch":"e","counter":1},"entries":[["service/a.b",null]]}\n',
  ]);
  expect([...stateLines({ type: "delta", version, set: [], gone: ['"service/a.b"'] })]).toEqual([
    '{"type":"delta","version":{"epoch":"e","counter":1},"set":[],"gone":["service/a.b"]}\n',
  ]);
  expect(read(stateLines({ type: "full", version, set: [], gone: [] }))).toEqual([
    { type: "full", version, entries: [] },
  ]);
});

test("a full state of more entries than a message may have goes on in deltas, of which the last ends it", () => {
  const keys = names(2 * limits.entriesMax + 1);
  const messages = read(stateLines({ type: "full", version, set: unknown(keys), gone: [] }));
  expect(messages.map(({ type, more }) => `${type}${more === true ? " more" : ""}`)).toEqual([
    "full more",
    "delta more",
    "delta",
  ]);
  expect(messages.flatMap((message) => (message.type === "full" ? message.entries : message.set))).toEqual(
    keys.map((key) => [key, null]),
  );
});

test("what goes is told like what comes, in lines that the other end reads", () => {
  const [set, gone] = [names(limits.entriesMax), names(limits.entriesMax + 1)];
  const texts = gone.map((key) => JSON.stringify(key));
  const messages = read(stateLines({ type: "delta", version, set: unknown(set), gone: texts }));
  expect(messages.map(({ more }) => more)).toEqual([true, true, undefined]);
  expect(messages.flatMap((message) => (message.type === "delta" ? message.gone : []))).toEqual(gone);
});

test("an entry stands in a line of its own where it is large, so that lines stay within their limit", () => {
  const large = Array.from({ length: 4 }, (_, index) => `["service/s${index}.default",${"7".repeat(14 * 2 ** 20)}]`);
  const lines = [...stateLines({ type: "full", version, set: large, gone: [] })];
  expect(lines).toHaveLength(4);
  for (const line of lines) expect(Buffer.byteLength(line)).toBeLessThan(limits.downLineBytesMax);
});

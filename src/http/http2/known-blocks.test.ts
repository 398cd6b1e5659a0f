import { expect, test } from "vitest";
import { FieldList } from "./field-list.ts";
import { HpackDecoder } from "./hpack-decoder.ts";

const limits = { fieldsMax: 100, bytesMax: 10_000 };

function read(decoder: HpackDecoder, block: Buffer, list = new FieldList(limits)): string[] | undefined {
  return decoder.decode(block, 0, block.length, list)
    ? list.names.slice(0, list.count).map((name, i) => `${name}: ${list.values[i]}`)
    : undefined;
}

const text = (value: string): Buffer => Buffer.concat([Buffer.from([value.length]), Buffer.from(value, "latin1")]);
/** "a literal with this value, its name by the index": not kept in the table, or kept. */
const literal = (index: number, value: string): Buffer => Buffer.concat([Buffer.from([index]), text(value)]);
const inserted = (name: string, value: string): Buffer => Buffer.concat([Buffer.from([0x40]), text(name), text(value)]);
/** `:status 200`, the entry that was inserted last, and a text. */
const answer = Buffer.concat([Buffer.from([0x88, 0xbe]), Buffer.from([0x0f, 54 - 15]), text("nginx")]);

test("the same bytes say the same as long as the table is the same, and something else once it is not", () => {
  const decoder = new HpackDecoder();
  expect(read(decoder, inserted("x-a", "1"))).toEqual(["x-a: 1"]);
  for (let i = 0; i < 3; i++) expect(read(decoder, answer)).toEqual([":status: 200", "x-a: 1", "server: nginx"]);
  expect(read(decoder, inserted("x-a", "2"))).toEqual(["x-a: 2"]);
  for (let i = 0; i < 3; i++) expect(read(decoder, answer)).toEqual([":status: 200", "x-a: 2", "server: nginx"]);
  // A size update empties the table: what was known names an entry that is no more.
  expect(read(decoder, Buffer.from([0x20]))).toEqual([]);
  expect(read(decoder, answer)).toBeUndefined();
});

test("a block that was known is refused where the table had to be made smaller first", () => {
  const decoder = new HpackDecoder();
  const block = literal(4, "/a");
  for (let i = 0; i < 3; i++) expect(read(decoder, block)).toEqual([":path: /a"]);
  decoder.setLimit(100);
  expect(read(decoder, block)).toBeUndefined();
  expect(decoder.because).toContain("no size update");
});

test("what does not come again is passed over, and what comes again later is known once more", () => {
  const decoder = new HpackDecoder();
  for (let i = 0; i < 1_200; i++) expect(read(decoder, literal(4, `/${i}`))).toEqual([`:path: /${i}`]);
  const [first, second] = [new FieldList(limits), new FieldList(limits)];
  for (let i = 0; i < 600; i++) read(decoder, literal(4, "/again"), i % 2 === 0 ? first : second);
  expect(first.values[0]).toBe("/again");
  expect([second.names[0], second.values[0], second.marks[0]]).toEqual([
    first.names[0],
    first.values[0],
    first.marks[0],
  ]);
});

test("a list that overflows does so each time", () => {
  const decoder = new HpackDecoder();
  const block = Buffer.concat([literal(4, "/a"), literal(4, "/b")]);
  for (let i = 0; i < 3; i++) {
    const list = new FieldList({ fieldsMax: 1, bytesMax: 10_000 });
    expect(read(decoder, block, list)).toEqual([":path: /a"]);
    expect(list.overflowed).toBe(true);
  }
});

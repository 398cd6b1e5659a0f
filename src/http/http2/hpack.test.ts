import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { encoders, fieldsOf, storiesOf, vectorsMissing as missing } from "../../../test/support/hpack-vectors.ts";
import { heldNow } from "../../../test/support/memory.ts";
import { FieldList } from "./field-list.ts";
import { MALFORMED, ORDINARY, REFUSED } from "./field-mark.ts";
import { HpackDecoder } from "./hpack-decoder.ts";
import { HpackEncoder, boundOf } from "./hpack-encoder.ts";
import { decodeHuffman } from "./huffman.ts";

const roomy = { fieldsMax: 10_000, bytesMax: 10_000_000 };

function flat(list: FieldList): string[] {
  const out: string[] = [];
  for (let i = 0; i < list.count; i++) out.push(list.names[i] as string, list.values[i] as string);
  return out;
}

function decode(decoder: HpackDecoder, bytes: Buffer, limits = roomy): FieldList | undefined {
  const list = new FieldList(limits);
  return decoder.decode(bytes, 0, bytes.length, list) ? list : undefined;
}

function hex(text: string): Buffer {
  return Buffer.from(text.replaceAll(" ", ""), "hex");
}

function encode(encoder: HpackEncoder, fields: string[]): Buffer {
  const out = Buffer.alloc(boundOf(fields) + 64);
  encoder.begin(out, 0);
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i] as string;
    const value = fields[i + 1] as string;
    if (name === ":method") encoder.known(encoder.method, value);
    else if (name === ":path") encoder.known(encoder.path, value);
    else if (name === ":scheme") encoder.known(encoder.scheme, value);
    else if (name === ":authority") encoder.known(encoder.authority, value);
    else if (name === ":status") encoder.known(encoder.status, value);
    else encoder.field(name, value);
  }
  return out.subarray(0, encoder.at);
}

test.skipIf(missing !== "")(`the public vectors hold more than 16,000 cases of five encoders${missing}`, () => {
  const cases = encoders.flatMap((set) => storiesOf(set).flatMap((story) => story.cases));
  expect([encoders.length, cases.length]).toEqual([5, 16_803]);
});

for (const set of encoders) {
  test.skipIf(missing !== "")(`every block of ${set} decodes to its fields${missing}`, () => {
    for (const { story, cases } of storiesOf(set)) {
      // The first size is the one that the connection began with; later ones are changes.
      const decoder = new HpackDecoder(cases[0]?.header_table_size ?? 4096);
      for (const [index, one] of cases.entries()) {
        const { wire, header_table_size } = one;
        if (index > 0 && header_table_size !== undefined && header_table_size !== cases[index - 1]?.header_table_size)
          decoder.setLimit(header_table_size);
        const list = decode(decoder, hex(wire ?? ""));
        expect(list && flat(list), `${set} ${story} ${index} ${decoder.because}`).toEqual(fieldsOf(one));
      }
    }
  });
}

test.skipIf(missing !== "")(
  `what we encode of raw-data decodes to the same fields, and is smaller than its text${missing}`,
  () => {
    let text = 0;
    let wire = 0;
    for (const { cases } of storiesOf("raw-data")) {
      const decoder = new HpackDecoder(4096);
      const encoder = new HpackEncoder(4096);
      for (const one of cases) {
        const fields = fieldsOf(one).map((part) => part.trim());
        const kept: string[] = [];
        for (let i = 0; i < fields.length; i += 2) {
          const name = fields[i] as string;
          if (/^(connection|keep-alive|transfer-encoding|upgrade|te|proxy-connection)$/.test(name)) continue;
          kept.push(name, fields[i + 1] as string);
        }
        const block = encode(encoder, fields);
        expect(encoder.invalid).toBeUndefined();
        text += fields.join("").length;
        wire += block.length;
        const list = decode(decoder, block);
        expect(list && flat(list), decoder.because).toEqual(kept);
      }
    }
    expect(wire / text).toBeLessThan(0.75);
  },
);

test("the request examples of RFC 7541, C.4 decode", () => {
  const decoder = new HpackDecoder();
  const common = [":method", "GET", ":scheme", "http", ":path", "/", ":authority", "www.example.com"];
  const first = decode(decoder, hex("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff"));
  expect(first && flat(first)).toEqual(common);
  const second = decode(decoder, hex("8286 84be 5886 a8eb 1064 9cbf"));
  expect(second && flat(second)).toEqual([...common, "cache-control", "no-cache"]);
});

test("a repeated field costs one byte from its third time on, from its second where the name is new", () => {
  const sizes = (fields: string[]): number[] => {
    const encoder = new HpackEncoder();
    return [1, 2, 3].map(() => encode(encoder, fields).length);
  };
  expect(sizes(["x-name", "always the same"])).toEqual([1 + 7 + 16, 1, 1]);
  expect(sizes(["accept", "always the same"])).toEqual([2 + 16, 1 + 16, 1]);
});

test("values that never repeat push nothing out of the table, and their name is written once", () => {
  const encoder = new HpackEncoder();
  encode(encoder, ["x-steady", "kept"]);
  const id = (n: number): string => String(n).padStart(32, "0");
  for (let n = 0; n < 5_000; n++) {
    const block = encode(
      encoder,
      n === 0 ? ["x-request-id", id(n)] : ["x-steady", "kept", "x-request-id", id(n), "date", id(n)],
    );
    if (n > 0) expect(block.length).toBe(1 + (2 + 1 + 32) + (2 + 1 + 32));
  }
});

test("secrets are written as never indexed, and again in full each time", () => {
  const encoder = new HpackEncoder();
  for (const [name, value] of [
    ["authorization", "Bearer x"],
    ["Proxy-Authorization", "Basic y"],
    ["cookie", "short"],
    ["set-cookie", "a=b"],
  ] as const) {
    const blocks = [1, 2, 3].map(() => encode(encoder, [name, value]));
    for (const block of blocks) {
      expect((block[0] as number) & 0xf0).toBe(0x10);
      expect(block.length).toBeGreaterThan(value.length);
    }
  }
});

test("a token too long to be guessed costs one byte from its third time on, and a short credential never", () => {
  const encoder = new HpackEncoder();
  const token = `Bearer ${"x".repeat(300)}`;
  const lengths = [1, 2, 3, 4].map(() => encode(encoder, ["authorization", token]).length);
  expect(lengths[0]).toBeGreaterThan(200);
  expect(lengths.slice(2)).toEqual([1, 1]);
  const guessable = `Basic ${"x".repeat(90)}`;
  const others = [1, 2, 3].map(() => encode(encoder, ["authorization", guessable]));
  for (const block of others) expect((block[0] as number) & 0xf0).toBe(0x10);
});

test("names are written in lower case, and the fields of one HTTP/1 connection not at all", () => {
  const block = encode(new HpackEncoder(), [
    "Content-Type",
    "a",
    "CONTENT-TYPE",
    "b",
    "Connection",
    "close",
    "Upgrade",
    "x",
    "Transfer-Encoding",
    "chunked",
    "TE",
    "gzip",
    "te",
    "Trailers",
  ]);
  const list = decode(new HpackDecoder(), block);
  expect(list && flat(list)).toEqual(["content-type", "a", "content-type", "b", "te", "trailers"]);
});

describe("what HTTP/2 cannot carry is named as invalid", () => {
  const bad = [
    "a\nb",
    "a\rb",
    "a\0b",
    " a",
    "a\t",
    "\u010a",
    `${"x".repeat(100)}\n`,
    `${"x".repeat(100)}\u0100`,
    "\x7f",
  ];
  for (const value of bad) {
    test(JSON.stringify(value).slice(-14), () => {
      const encoder = new HpackEncoder();
      encode(encoder, ["x-a", value]);
      expect(encoder.invalid).toBe("x-a");
    });
  }
  for (const name of ["", "a b", ":path", "x:y", "ü", "a\n"]) {
    test(`the name ${JSON.stringify(name)}`, () => {
      const encoder = new HpackEncoder();
      encode(encoder, [name, "fine"]);
      // The pseudo-field is passed by `field` here.
      if (name !== ":path") expect(encoder.invalid).toBe(name.toLowerCase());
    });
  }
});

test("after forgetting, the peer's table is emptied by the next block", () => {
  const encoder = new HpackEncoder();
  const decoder = new HpackDecoder();
  for (let i = 0; i < 3; i++) decode(decoder, encode(encoder, ["x-a", "one"]));
  encode(encoder, ["x-a", "one", "x-b", "bad\n", "x-b", "bad\n"]);
  encoder.forget();
  for (let i = 0; i < 4; i++) {
    const list = decode(decoder, encode(encoder, ["x-a", "one", "x-c", "two"]));
    expect(list && flat(list), decoder.because).toEqual(["x-a", "one", "x-c", "two"]);
  }
});

describe("a block that breaks RFC 7541 is refused", () => {
  const table: [string, string][] = [
    ["index 0", "80"],
    ["an index above both tables", "be"],
    ["a name index above both tables", "7e 01 61"],
    ["an integer that is cut off", "ff"],
    ["an integer without end", "ff ff ff ff ff ff ff 01"],
    ["a name that is cut off", "40 05 61 62"],
    ["a field without its value", "40 01 61"],
    ["a size update above the setting", "3f e2 1f"],
    ["a size update after a field", "82 20"],
    ["three size updates", "20 20 20 82"],
    ["Huffman padding longer than seven bits", "00 01 61 85 1f ff ff ff ff"],
    ["Huffman padding of zeros", "00 01 61 81 18"],
    ["Huffman with the end of string in it", "00 01 61 84 ff ff ff fc"],
    ["Huffman padding of a whole byte", "00 01 61 82 1f ff"],
  ];
  for (const [name, wire] of table) {
    test(name, () => {
      const decoder = new HpackDecoder();
      expect(decode(decoder, hex(wire))).toBeUndefined();
      expect(decoder.because).not.toBe("");
    });
  }
});

test("a smaller table has to be confirmed by a size update", () => {
  const decoder = new HpackDecoder(4096);
  decoder.setLimit(100);
  expect(decode(decoder, hex("82"))).toBeUndefined();
  const other = new HpackDecoder(4096);
  other.setLimit(100);
  expect(decode(other, hex("3f 45 82"))?.count).toBe(1);
});

test("a list above its limits is decoded to the end for the table's sake, and kept no further", () => {
  const decoder = new HpackDecoder();
  const insert = Buffer.concat([hex("40 01 61 7f 81 1e"), Buffer.alloc(4000 - 32, "v")]);
  expect(decode(decoder, insert)?.count).toBe(1);
  const bomb = Buffer.alloc(30_000, 0xbe);
  const list = decode(decoder, bomb, { fieldsMax: 100, bytesMax: 16_384 });
  expect(list?.overflowed).toBe(true);
  expect(list?.count).toBe(4);
  const many = decode(decoder, Buffer.alloc(500, 0x82), { fieldsMax: 100, bytesMax: 1_000_000 });
  expect([many?.overflowed, many?.count]).toEqual([true, 100]);
});

test("marks say what a field is, also when it comes by its index", () => {
  const decoder = new HpackDecoder();
  const raw = (name: string, value: string) =>
    Buffer.concat([
      Buffer.from([0x40, name.length]),
      Buffer.from(name),
      Buffer.from([value.length]),
      Buffer.from(value, "latin1"),
    ]);
  const marks: [string, string, number][] = [
    ["x-a", "fine", ORDINARY],
    ["x_a", "fine", REFUSED],
    ["X-a", "fine", MALFORMED],
    ["x-a", " a", MALFORMED],
    ["x-a", "a\n", MALFORMED],
    ["x-a", "\xff", ORDINARY],
    ["", "a", MALFORMED],
  ];
  for (const [name, value, mark] of marks) {
    expect(decode(decoder, raw(name, value))?.marks[0], name).toBe(mark);
    expect(decode(decoder, hex("be"))?.marks[0], name).toBe(mark);
  }
});

const token = fc
  .stringMatching(/^[a-z][a-z0-9-]{0,12}$/)
  .filter(
    (name) => !/^(connection|keep-alive|upgrade|te|transfer-encoding|proxy-connection|http2-settings)$/.test(name),
  );
const value = fc.stringMatching(/^[!-~]([ -~]{0,60}[!-~])?$/);

test("any fields in any order, under any table sizes, come out as they went in", () => {
  const names = fc.constantFrom("accept", "x-a", "x-b", "cookie", "authorization", "content-type");
  const values = fc.constantFrom("", "a", "b", "c".repeat(50), "d".repeat(600), "e".repeat(3000));
  const block = fc.record({
    fields: fc.array(fc.tuple(fc.oneof(names, token), fc.oneof(values, value)), { maxLength: 12 }),
    limit: fc.option(fc.constantFrom(0, 40, 100, 1000, 4096, 9000), { nil: undefined, freq: 5 }),
  });
  fc.assert(
    fc.property(fc.array(block, { maxLength: 30 }), fc.constantFrom(0, 200, 4096, 16_384), (blocks, ownMax) => {
      const encoder = new HpackEncoder(ownMax);
      const decoder = new HpackDecoder(4096);
      for (const { fields, limit } of blocks) {
        if (limit !== undefined) {
          decoder.setLimit(limit);
          encoder.setLimit(limit);
        }
        const list = decode(decoder, encode(encoder, fields.flat()));
        expect(list && flat(list), decoder.because).toEqual(fields.flat());
      }
    }),
    { numRuns: 200 },
  );
});

test("no bytes make the decoder throw, and it never keeps more than its limits", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 8 }), (blocks) => {
      const decoder = new HpackDecoder();
      for (const block of blocks) {
        const list = decode(decoder, Buffer.from(block), { fieldsMax: 10, bytesMax: 500 });
        if (list === undefined) return;
        expect(list.count).toBeLessThanOrEqual(10);
      }
    }),
    { numRuns: 500 },
  );
});

test("an empty Huffman text is empty", () => {
  expect(decodeHuffman(Buffer.alloc(0), 0, 0)).toBe("");
});

test("values that never come again cost no memory, however many names and values somebody sends", () => {
  const encoder = new HpackEncoder();
  const out = Buffer.alloc(4_096);
  const before = heldNow();
  for (let value = 0; value < 200; value++) {
    for (let name = 0; name < 400; name++) {
      encoder.begin(out, 0);
      encoder.field(`x-${name}`, `${value}-${name}-`.padEnd(1_000, "v"));
    }
  }
  expect(heldNow() - before).toBeLessThan(4 * 2 ** 20);
  expect(encoder.invalid).toBeUndefined();
});

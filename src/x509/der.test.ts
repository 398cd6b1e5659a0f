import * as fc from "fast-check";
import { expect, test } from "vitest";
import { DerError, DerReader, tags } from "./der-reader.ts";
import { bitOctets, der, integer, oid, octetString, sequence, smallInteger, time } from "./der-writer.ts";

const reader = (hex: string): DerReader => new DerReader(Buffer.from(hex, "hex"));
const refused = (read: () => unknown): string => {
  try {
    read();
  } catch (thrown) {
    if (thrown instanceof DerError) return thrown.message;
    throw thrown;
  }
  return "accepted";
};

test("lengths that are long where a short one does, indefinite, or beyond the end are refused", () => {
  expect(reader("0403616263").content(tags.octetString).toString()).toBe("abc");
  expect(refused(() => reader("048103616263").content(4))).toBe("a length is not minimal");
  expect(refused(() => reader(`04820080${"00".repeat(128)}`).content(4))).toBe("a length is not minimal");
  expect(refused(() => reader("0480616263").content(4))).toBe("a length is indefinite");
  expect(refused(() => reader("308004010000").content(0x30))).toBe("a length is indefinite");
  expect(refused(() => reader("0484ffffffff").content(4))).toBe("a length is too large");
  expect(refused(() => reader("040461").content(4))).toBe("an element is longer than what holds it");
  expect(refused(() => reader("0482").content(4))).toBe("it ends too early");
  expect(refused(() => reader("04").content(4))).toBe("it ends too early");
  expect(refused(() => reader("").content(4))).toBe("it ends too early");
});

test("a child cannot reach beyond its parent", () => {
  const outer = reader("3003040261620405");
  const inner = outer.enter(tags.sequence);
  expect(refused(() => inner.content(tags.octetString))).toBe("an element is longer than what holds it");
});

test("booleans, integers and bit lists have one spelling", () => {
  expect([reader("0101ff").boolean(), reader("010100").boolean()]).toEqual([true, false]);
  expect(refused(() => reader("010101").boolean())).toContain("neither 00 nor FF");
  expect(refused(() => reader("0102ffff").boolean())).toContain("neither 00 nor FF");
  expect(refused(() => reader("0200").integer())).toBe("an integer is empty");
  expect(refused(() => reader("02020001").integer())).toBe("an integer is not minimal");
  expect(refused(() => reader("0202ff80").integer())).toBe("an integer is not minimal");
  expect(refused(() => reader("0201ff").smallInteger())).toContain("negative");
  expect(reader("02020080").smallInteger()).toBe(128);
  expect(reader("03020780").namedBits()).toEqual([0]);
  expect(reader("0303070080").namedBits()).toEqual([8]);
  expect(refused(() => reader("03020080").namedBits())).toBe("a bit list is not canonical");
  expect(refused(() => reader("030206c1").namedBits())).toBe("a bit list is not canonical");
  expect(refused(() => reader("0303078000").namedBits())).toBe("a bit list is not canonical");
  expect(refused(() => reader("03020880").namedBits())).toBe("a bit string is malformed");
  expect(refused(() => reader("0300").namedBits())).toBe("a bit string is malformed");
  expect(refused(() => reader("03020780").bitOctets())).toContain("whole octets");
});

test("object identifiers are minimal and whole", () => {
  expect(reader("06082a8648ce3d040302").oid()).toBe("1.2.840.10045.4.3.2");
  expect(reader("060388371f").oid()).toBe("2.999.31");
  expect(refused(() => reader("06032a8001").oid())).toContain("not minimal");
  expect(refused(() => reader("06022a86").oid())).toContain("cut off");
  expect(refused(() => reader("0600").oid())).toContain("cut off");
});

test("tags of several octets are refused, and so is what is nested too deep", () => {
  expect(refused(() => reader("1f8101").walk())).toBe("a tag is of several octets");
  let nested: Buffer = Buffer.alloc(0);
  for (let depth = 0; depth < 5_000; depth++) nested = sequence(nested);
  expect(refused(() => new DerReader(nested).walk())).toContain("nested deeper");
});

test("times are UTCTime before 2050 and GeneralizedTime from then on, in whole seconds", () => {
  const read = (text: string, tag: number = tags.utcTime): number => new DerReader(der(tag, Buffer.from(text))).time();
  expect(time(Date.UTC(2049, 11, 31, 23, 59, 59, 999))[0]).toBe(tags.utcTime);
  expect(time(Date.UTC(2050, 0, 1))[0]).toBe(tags.generalizedTime);
  expect(read("491231235959Z")).toBe(Date.UTC(2049, 11, 31, 23, 59, 59));
  expect(read("500101000000Z")).toBe(Date.UTC(1950, 0, 1));
  expect(read("20500101000000Z", tags.generalizedTime)).toBe(Date.UTC(2050, 0, 1));
  expect(read("99991231235959Z", tags.generalizedTime)).toBe(Date.UTC(9999, 11, 31, 23, 59, 59));
  for (const text of [
    "2601010000Z",
    "260101000000",
    "260101000000+0000",
    "260229000000Z",
    "261301000000Z",
    "260101240000Z",
    "260101000060Z",
    "2601010000 0Z",
  ]) {
    expect([text, refused(() => read(text))[0]]).toEqual([text, "a"]);
    expect(refused(() => read(text))).not.toBe("accepted");
  }
  expect(refused(() => read("20260101000000Z", tags.generalizedTime))).toContain("no UTCTime");
  expect(refused(() => read("20500101000000.5Z", tags.generalizedTime))).not.toBe("accepted");
});

test("what the writer writes, the reader reads back", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (octets) => {
      const content = Buffer.from(octets);
      expect(new DerReader(octetString(content)).content(tags.octetString)).toEqual(content);
      expect(new DerReader(bitOctets(content)).bitOctets()).toEqual(content);
      const value = new DerReader(integer(content)).integer();
      expect(BigInt(`0x0${value.toString("hex")}`)).toBe(BigInt(`0x0${content.toString("hex")}`));
    }),
  );
  fc.assert(
    fc.property(fc.nat(), (value) => {
      expect(new DerReader(smallInteger(value)).smallInteger()).toBe(value);
    }),
  );
  fc.assert(
    fc.property(fc.integer({ min: Date.UTC(1950, 0, 1), max: Date.UTC(9999, 11, 31) }), (atMs) => {
      expect(new DerReader(time(atMs)).time()).toBe(Math.floor(atMs / 1000) * 1000);
    }),
  );
  fc.assert(
    fc.property(fc.nat({ max: 2 }), fc.nat({ max: 39 }), fc.array(fc.nat(), { maxLength: 8 }), (top, second, rest) => {
      const text = [top, second, ...rest].join(".");
      expect(new DerReader(oid(text)).oid()).toBe(text);
    }),
  );
});

test("random bytes are read or refused, never thrown over", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (octets) => {
      const bytes = Buffer.from(octets);
      refused(() => new DerReader(bytes).walk());
      for (const tag of [tags.utcTime, tags.generalizedTime, tags.oid, tags.bitString, tags.integer, tags.boolean]) {
        const element = der(tag, bytes);
        refused(() => new DerReader(element).time());
        refused(() => new DerReader(element).oid());
        refused(() => new DerReader(element).namedBits());
        refused(() => new DerReader(element).bitOctets());
        refused(() => new DerReader(element).smallInteger());
        refused(() => new DerReader(element).boolean());
      }
    }),
  );
});

import * as fc from "fast-check";
import { BlockList } from "node:net";
import { expect, test } from "vitest";
import { contains, isLocal, parseAddress, parseBlock, shareOf } from "./ip-address.ts";

test.each([
  "1.2.3",
  "1.2.3.4.5",
  "01.2.3.4",
  "256.1.1.1",
  "1.2.3.x",
  "",
  ":",
  ":::",
  "1::2::3",
  "1:2:3:4:5:6:7",
  "1:2:3:4:5:6:7:8:9",
  "1:2:3:4:5:6:7::8:9",
  "12345::",
  "::1.2.3",
  "1.2.3.4::",
  "g::",
])("%j is no address", (text) => {
  expect(parseAddress(text)).toBeUndefined();
});

test("an IPv4 address in IPv6's clothes is that IPv4 address", () => {
  expect(parseAddress("::ffff:10.0.0.1")).toEqual(parseAddress("10.0.0.1"));
  expect(parseAddress("::FFFF:a00:1")).toEqual(parseAddress("10.0.0.1"));
  expect(parseBlock("::ffff:10.0.0.0/104")).toEqual(parseBlock("10.0.0.0/8"));
});

test("blocks contain what node:net says they contain", () => {
  const four = fc.ipV4();
  const six = fc.ipV6().filter((text) => parseAddress(text)?.length === 8);
  const pair = fc.oneof(
    fc.tuple(four, four, fc.integer({ min: 0, max: 32 })),
    fc.tuple(six, six, fc.integer({ min: 0, max: 128 })),
  );
  fc.assert(
    fc.property(pair, fc.boolean(), ([one, other, bits], self) => {
      const family = one.includes(":") ? "ipv6" : "ipv4";
      const address = self ? one : other;
      const list = new BlockList();
      list.addSubnet(one, bits, family);
      expect(contains({ words: parseAddress(one) ?? [], bits }, parseAddress(address) ?? [])).toBe(
        list.check(address, family),
      );
    }),
  );
});

test("local addresses are loopback, link-local and unspecified ones, in any clothes", () => {
  for (const text of [
    "127.0.0.1",
    "127.255.0.9",
    "::1",
    "169.254.1.1",
    "fe80::1",
    "febf::1",
    "0.0.0.0",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:a9fe:1",
    "::127.0.0.1",
  ])
    expect(isLocal(parseAddress(text) ?? []), text).toBe(true);
  for (const text of ["10.0.0.1", "128.0.0.1", "169.253.1.1", "2001:db8::1", "fec0::1", "::ffff:10.0.0.1", "::1:0:0:1"])
    expect(isLocal(parseAddress(text) ?? []), text).toBe(false);
});

test.each([
  ["10.0.0.1", "10.0.0.1"],
  ["::ffff:10.0.0.1", "10.0.0.1"],
  ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
  ["2001:db8:1:2::9", "2001:db8:1:2::/64"],
  ["2001:db8::9", "2001:db8:0:0::/64"],
  ["::1", "0:0:0:0::/64"],
  ["fe80::1%eth0", "fe80:0:0:0::/64"],
])("for shares and rates %s counts as %s", (address, key) => {
  expect(shareOf(address)).toBe(key);
});

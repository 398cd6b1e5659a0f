import * as fc from "fast-check";
import { expect, test } from "vitest";
import { isRefusal } from "../base/errors.ts";
import { readAuthority } from "./authority.ts";

test.each([
  ["orders", "orders", undefined],
  ["Secret.com:443", "secret.com", 443],
  ["Secret.com.:443", "secret.com", 443],
  ["orders.default.mesh.", "orders.default.mesh", undefined],
  ["my_service:8080", "my_service", 8080],
  ["127.0.0.1:80", "127.0.0.1", 80],
  ["[::1]:15001", "[::1]", 15001],
  ["[2001:DB8::1]", "[2001:db8::1]", undefined],
  ["[::ffff:127.0.0.1]", "[::ffff:127.0.0.1]", undefined],
  ["1a.example", "1a.example", undefined],
])("%s is read", (text, host, port) => {
  expect(readAuthority(text)).toEqual({ host, port });
});

test.each([
  "",
  ".",
  "a..b",
  ".a",
  "a:",
  ":80",
  "a:0",
  "a:080",
  "a:65536",
  "a:+1",
  "a: 1",
  "a:80:80",
  "user@a",
  "user:pass@a",
  "a/b",
  "a?b",
  "a#b",
  "a b",
  "a%2eb",
  "a,b",
  "caf\u00e9",
  "a\u0000",
  "[::1",
  "::1",
  "[::1]x",
  "[::1]:",
  "[::1%25eth0]",
  "[1::2::3]",
  "[12345::]",
  "[1:2:3:4:5:6:7]",
  "[::1.2.3]",
  "[]",
  "127.1",
  "0x7f.1",
  "0x7f000001",
  "2130706433",
  "0177.0.0.1",
  "1.2.3.256",
  "1.2.3.4.5",
  "a.0x7f",
  "a.123",
  "a..",
  `${"a".repeat(64)}.b`,
  `${"abcd.".repeat(51)}x`,
])("%j is refused", (text) => {
  expect(isRefusal(readAuthority(text))).toBe(true);
});

test("no text makes it throw, and what it gives is its own spelling", () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom("a", "A", "1", ".", ":", "[", "]", "-", "0x", "@", "\u00e9") }),
      (text) => {
        const first = readAuthority(text);
        if (isRefusal(first)) return;
        expect(readAuthority(first.host)).toEqual({ host: first.host, port: undefined });
      },
    ),
  );
});

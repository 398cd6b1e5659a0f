import * as fc from "fast-check";
import { expect, test } from "vitest";
import { isRefusal } from "../base/errors.ts";
import { normalizePath } from "./target.ts";

function normal(path: string): string {
  const result = normalizePath(path);
  return isRefusal(result) ? "refused" : result.target;
}

const table: readonly (readonly [string, string])[] = [
  ["/app#foo", "refused"],
  ["/app/../admin", "/admin"],
  ["/app//", "/app/"],
  ["/app%2f/", "refused"],
  ["/app%2F/", "refused"],
  ["/xyz%30..//abc", "/xyz0../abc"],
  ["/app/%2E./admin", "/admin"],
  ["/app/%2e%2e/admin", "/admin"],
  ["/app\\admin", "refused"],
  ["/a\\..\\admin", "refused"],
  ["/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\\abc", "refused"],
  ["/admin%00", "refused"],
  ["//admin", "/admin"],
  ["/a//../b", "/b"],
  ["/..", "refused"],
  ["/../admin", "refused"],
  ["/a/../../admin", "refused"],
  ["/%2e%2e/admin", "refused"],
  ["/a/..", "/"],
  ["/a/b/..", "/a/"],
  ["/a/.", "/a/"],
  ["/.", "/"],
  ["/./a", "/a"],
  ["/a%zz", "refused"],
  ["/a%4", "refused"],
  ["/a%", "refused"],
  ["/caf\u00e9", "refused"],
  ["/a b", "refused"],
  ["/a\nb", "refused"],
  ["admin", "refused"],
  ["/a%7f", "refused"],
  ["/a%2b%c3%a9", "/a%2B%C3%A9"],
  ["/a/..?x=/../y", "/?x=/../y"],
  ["/a?%2f..%00", "/a?%2f..%00"],
  ["/a?b#c", "refused"],
  ["*", "*"],
  ["", ""],
];

for (const [path, expected] of table) {
  test(`${JSON.stringify(path)} is read as ${JSON.stringify(expected)}`, () => {
    expect(normal(path)).toBe(expected);
  });
}

test.each([
  "/%252e%252e/admin",
  "/%C0%AE%C0%AE/admin",
  "/..;/admin",
  "/admin;a=b",
  "/.../admin",
  "/Admin",
  "/0x2e0x2e/admin",
  "/a.b/.c/..d/e.",
])("%s keeps its bytes", (path) => {
  expect(normal(path)).toBe(path);
});

test("a clean path is returned as the same string, and the query is no part of it", () => {
  expect(normalizePath("/orders/17")).toEqual({ path: "/orders/17", target: "/orders/17" });
  expect(normalizePath("/orders?x=1")).toEqual({ path: "/orders", target: "/orders?x=1" });
});

test("of the 255 escaped bytes only unreserved ones are decoded, and what servers disagree about is refused", () => {
  for (let code = 0; code < 256; code++) {
    const escape = `%${code.toString(16).padStart(2, "0")}`;
    const character = String.fromCharCode(code);
    let expected = `/a${escape.toUpperCase()}b`;
    if (code < 32 || code === 127 || character === "/" || character === "\\") expected = "refused";
    else if (/[A-Za-z0-9._~-]/.test(character)) expected = `/a${character}b`;
    expect(normal(`/a${escape}b`), escape).toBe(expected);
    expect(normal(`/a${escape.toUpperCase()}b`), escape).toBe(expected);
  }
});

test("a raw byte that is not visible ASCII is refused wherever it stands", () => {
  for (let code = 0; code < 256; code++) {
    const character = String.fromCharCode(code);
    const refused = code <= 32 || code >= 127 || "#\\%".includes(character);
    expect(normal(`/a${character}b`) === "refused", String(code)).toBe(refused);
  }
});

test("normalizing twice changes nothing more, and nothing normal holds a dot segment or two slashes", () => {
  const part = fc.constantFrom("/", "/", "..", ".", "%2e", "%2E", "a", "%61", "%25", ";", "?", "%c3", "%2b", "~");
  fc.assert(
    fc.property(fc.array(part, { maxLength: 12 }), (parts) => {
      const first = normalizePath(`/${parts.join("")}`);
      if (isRefusal(first)) return;
      expect(normalizePath(first.target)).toEqual(first);
      expect(first.path).not.toMatch(/\/\/|\/\.{1,2}(?:\/|$)|[?#\\]|%2[fF]/);
      expect(first.target.startsWith(first.path)).toBe(true);
    }),
  );
});

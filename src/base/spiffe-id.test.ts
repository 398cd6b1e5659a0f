import * as fc from "fast-check";
import { expect, test } from "vitest";
import { isRefusal } from "./errors.ts";
import {
  adminId,
  adminOf,
  controlId,
  isTrustDomain,
  parseServiceName,
  parseSpiffeId,
  runsTheMesh,
  serviceId,
  serviceKey,
  serviceOf,
} from "./spiffe-id.ts";

const accepts = (text: string): boolean => !isRefusal(parseSpiffeId(text));

const lower = "abcdefghijklmnopqrstuvwxyz";
const trustDomainLetters = new Set(`${lower}0123456789._-`);
const pathLetters = new Set(`${lower}${lower.toUpperCase()}0123456789._-`);
const octets = Array.from({ length: 256 }, (_, code) => String.fromCharCode(code));

test("ID-1: only the scheme spiffe with a trust domain is an ID, and neither query nor fragment", () => {
  expect(accepts("spiffe://mesh.local")).toBe(true);
  expect(accepts("spiffe://mesh.local/ns/default/sa/orders")).toBe(true);
  const wrong = [
    "",
    "mesh.local",
    "spiffe:",
    "spiffe:/",
    "spiffe:/mesh.local",
    "spiffe://",
    "spiffe:///path",
    "https://mesh.local/a",
    "xspiffe://mesh.local",
    " spiffe://mesh.local",
    "spiffe://mesh.local/a?",
    "spiffe://mesh.local/a?q=1",
    "spiffe://mesh.local/a#",
    "spiffe://mesh.local/a#f",
    "spiffe://mesh.local?q",
    "spiffe://mesh.local#f",
  ];
  expect(wrong.filter(accepts)).toEqual([]);
});

test("ID-2: a trust domain is of a-z, 0-9, dot, dash and underscore in every position, of all 256 octets", () => {
  for (const letter of octets) {
    const legal = trustDomainLetters.has(letter);
    // A slash ends the trust domain: the path that follows is then what is wrong or right.
    for (const text of [`spiffe://${letter}mesh`, `spiffe://me${letter}sh`, `spiffe://mesh${letter}`]) {
      const expected = letter === "/" ? text === "spiffe://me/sh" : legal;
      expect([text, accepts(text)]).toEqual([text, expected]);
    }
    const withPath = `spiffe://mesh${letter}/path`;
    expect([withPath, accepts(withPath)]).toEqual([withPath, legal]);
    expect(isTrustDomain(letter)).toBe(legal);
  }
});

test("ID-2: user information, ports, brackets and percent-encoding are refused, dotted quads are names like others", () => {
  const wrong = [
    "spiffe://user@mesh.local/a",
    "spiffe://user:password@mesh.local/a",
    "spiffe://mesh.local:8443/a",
    "spiffe://mesh.local:/a",
    "spiffe://[::1]/a",
    "spiffe://mesh%2elocal/a",
    "spiffe://Mesh.local/a",
    "spiffe://mésh/a",
  ];
  expect(wrong.filter(accepts)).toEqual([]);
  expect(accepts("spiffe://10.0.0.1/a")).toBe(true);
  expect(accepts("spiffe://999.0.0.1/a")).toBe(true);
  expect(accepts("spiffe://-._/a")).toBe(true);
});

test("ID-3: a path segment is of a-z, A-Z, 0-9, dot, dash and underscore in every position, of all 256 octets", () => {
  for (const letter of octets) {
    const legal = pathLetters.has(letter);
    const cases: [string, boolean][] = [
      [`spiffe://mesh/${letter}path`, legal],
      [`spiffe://mesh/pa${letter}th`, legal || letter === "/"],
      [`spiffe://mesh/path${letter}`, legal],
      [`spiffe://mesh/path${letter}/end`, legal],
      [`spiffe://mesh/start/${letter}path`, legal],
    ];
    for (const [text, expected] of cases) expect([text, accepts(text)]).toEqual([text, expected]);
  }
});

test("ID-3: empty segments, dot segments and a slash at the end are refused, other dots are letters", () => {
  const wrong = [
    "/",
    "//",
    "/a/",
    "/a//b",
    "//a",
    "/.",
    "/..",
    "/a/.",
    "/a/..",
    "/./a",
    "/../a",
    "/a/../b",
    "/%61",
    "/a%2Fb",
  ];
  expect(wrong.filter((path) => accepts(`spiffe://mesh.local${path}`))).toEqual([]);
  const right = ["/...", "/.path", "/..path", "/path.", "/path..", "/a/.../b", "/-", "/_", "/a.b-c_D"];
  expect(right.filter((path) => !accepts(`spiffe://mesh.local${path}`))).toEqual([]);
});

test("ID-4: 2048 bytes are read and 2049 refused, a trust domain has at most 255", () => {
  const start = "spiffe://mesh.local/";
  expect(accepts(start + "a".repeat(2048 - start.length))).toBe(true);
  expect(accepts(start + "a".repeat(2049 - start.length))).toBe(false);
  expect(accepts(`spiffe://${"a".repeat(255)}/a`)).toBe(true);
  expect(accepts(`spiffe://${"a".repeat(256)}/a`)).toBe(false);
  expect(isTrustDomain("a".repeat(256))).toBe(false);
  expect(isTrustDomain("")).toBe(false);
});

test("ID-5: case is never mended: another spelling of the scheme or the trust domain is refused, paths keep theirs", () => {
  expect(["Spiffe://mesh.local/a", "SPIFFE://mesh.local/a", "spiffe://MESH.local/a"].filter(accepts)).toEqual([]);
  expect(parseSpiffeId("spiffe://mesh.local/A/b")).toEqual({
    trustDomain: "mesh.local",
    path: "/A/b",
    text: "spiffe://mesh.local/A/b",
  });
});

test("whatever is read is its trust domain and its path, and nothing else", () => {
  const letters = fc.constantFrom(..."ab.-_/:@%?#AZ0 \u0000é".split(""));
  fc.assert(
    fc.property(fc.string({ unit: letters, maxLength: 24 }), (rest) => {
      const id = parseSpiffeId(`spiffe://${rest}`);
      if (isRefusal(id)) return;
      expect(`spiffe://${id.trustDomain}${id.path}`).toBe(id.text);
      expect(new URL(id.text).host).toBe(id.trustDomain);
      expect(id.path.split("/")).not.toContain("..");
    }),
  );
});

test("a service's ID names that service, and IDs of another shape name none", () => {
  const name = { namespace: "shop", service: "orders" };
  const id = parseSpiffeId(serviceId("mesh.local", name));
  expect(!isRefusal(id) && serviceOf(id)).toEqual(name);
  expect(serviceKey(name)).toBe("orders.shop");
  for (const path of [
    "/ns/shop/sa/orders/x",
    "/ns/shop/sa",
    "/x/shop/sa/orders",
    "/ns/shop/x/orders",
    "/ns/Shop/sa/orders",
    "/ns/shop/sa/a_b",
    "",
  ]) {
    const other = parseSpiffeId(`spiffe://mesh.local${path}`);
    expect(isRefusal(other) ? "refused" : serviceOf(other)).toBeUndefined();
  }
});

test("the control plane and an administrator have IDs that are no service's", () => {
  const control = parseSpiffeId(controlId("mesh.local"));
  const admin = parseSpiffeId(adminId("mesh.local", "ada"));
  if (isRefusal(control) || isRefusal(admin)) throw new Error("both are IDs");
  expect([serviceOf(control), serviceOf(admin), adminOf(control), adminOf(admin)]).toEqual([
    undefined,
    undefined,
    undefined,
    "ada",
  ]);
});

test("only IDs below /hauberk and /admin are of those who run the mesh", () => {
  const runs = (path: string): boolean => runsTheMesh({ trustDomain: "t", path, text: `spiffe://t${path}` });
  expect(["/hauberk/control", "/hauberk", "/admin/ada", "/admin/a/b"].map(runs)).toEqual([true, true, true, true]);
  expect(["/ns/admin/sa/hauberk", "/administrator/ada", "/hauberks/control", "/ns/default/sa/web"].map(runs)).toEqual([
    false,
    false,
    false,
    false,
  ]);
});

test("a bare service name means the caller's namespace, and three labels are no name", () => {
  expect(parseServiceName("orders", "default")).toEqual({ service: "orders", namespace: "default" });
  expect(parseServiceName("orders.shop", "default")).toEqual({ service: "orders", namespace: "shop" });
  for (const text of ["", ".", "orders.", ".shop", "a.b.c", "Orders", "or_ders", "-a", "a-", "a".repeat(64)]) {
    expect([text, isRefusal(parseServiceName(text, "default"))]).toEqual([text, true]);
  }
});

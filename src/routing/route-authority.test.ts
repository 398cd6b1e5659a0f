import * as fc from "fast-check";
import { expect, test } from "vitest";
import { isRefusal } from "../base/errors.ts";
import { routeAuthority, whyNotEgress } from "./route-authority.ts";

const context = { namespace: "default", trustDomain: "mesh.local", egress: [] as string[] };
const route = (authority: string, egress: string[] = []): unknown => routeAuthority(authority, { ...context, egress });
const code = (authority: string, egress: string[] = []): string => {
  const found = routeAuthority(authority, { ...context, egress });
  return isRefusal(found) ? found.code : found.is;
};

test.each([
  ["orders", "orders", "default", undefined],
  ["Orders", "orders", "default", undefined],
  ["ORDERS.", "orders", "default", undefined],
  ["orders:80", "orders", "default", undefined],
  ["orders:8080", "orders", "default", 8080],
  ["orders.shop", "orders", "shop", undefined],
  ["Orders.Shop.:443", "orders", "shop", 443],
  ["orders.shop.mesh", "orders", "shop", undefined],
  ["orders.shop.MESH.:80", "orders", "shop", undefined],
])("%s means the service %s in %s, port %s", (authority, service, namespace, port) => {
  expect(route(authority)).toEqual({ is: "service", service: { service, namespace }, port });
});

test.each([
  "api.example.com",
  "orders.shop.mesh.evil",
  "orders.shop.mesh.mesh",
  "or_ders",
  "-orders",
  "a.b.c",
  "localhost",
  "x.localhost",
  "LOCALHOST.:80",
  "127.0.0.1",
  "127.9.9.9:15001",
  "[::1]",
  "[::1]:80",
  "[::ffff:127.0.0.1]",
  "169.254.169.254",
  "[fe80::1]",
  "0.0.0.0",
  "[::]",
  "[::127.0.0.1]",
  "10.0.0.1",
])("%s is not in the mesh", (authority) => {
  expect(code(authority)).toBe("NOT_IN_MESH");
});

test.each([
  "",
  ".",
  ":80",
  "orders:",
  "orders:0",
  "orders:080",
  "orders:65536",
  "orders:8a",
  "orders:80:80",
  "user@orders",
  "orders%2e",
  "or ders",
  "orders..shop",
  ".orders",
  "orders..",
  "örders",
  "orders/x",
  "orders?x",
  "orders#x",
  "orders\\x",
  "[::1",
  "::1",
  "[::1]x",
  "[::1%lo]",
  "[127.0.0.1]",
  "[]",
  "127.1",
  "0x7f.1",
  "2130706433",
  "0177.0.0.1",
  "1.2.3.4.5",
  "a".repeat(64),
  `${"a.".repeat(130)}a`,
])("%s is no authority", (authority) => {
  expect(code(authority)).toBe("REQUEST_INVALID");
});

test("loopback and link-local addresses never pass, whatever egress lists", () => {
  for (const authority of [
    "127.0.0.1:80",
    "[::1]:80",
    "169.254.169.254",
    "[fe80::1]",
    "localhost",
    "0.0.0.0",
    "[::ffff:169.254.169.254]",
  ])
    expect(code(authority, ["*", authority, "127.0.0.1", "localhost"]), authority).toBe("NOT_IN_MESH");
});

test("egress lets out what it lists, in any spelling, and nothing else", () => {
  const egress = [
    "Api.Example.com",
    "*.example.org",
    "only.example.net:8443",
    "10.0.0.1",
    "[2001:db8::1]:443",
    "example.com",
  ];
  expect(route("API.example.COM.", egress)).toEqual({ is: "egress", host: "api.example.com", port: 80 });
  expect(route("a.b.example.org:8443", egress)).toEqual({ is: "egress", host: "a.b.example.org", port: 8443 });
  expect(route("only.example.net:8443", egress)).toEqual({ is: "egress", host: "only.example.net", port: 8443 });
  expect(code("only.example.net", egress)).toBe("NOT_IN_MESH");
  expect(route("10.0.0.1:9", egress)).toEqual({ is: "egress", host: "10.0.0.1", port: 9 });
  expect(route("[2001:DB8::1]:443", egress)).toEqual({ is: "egress", host: "[2001:db8::1]", port: 443 });
  expect(code("10.0.0.2", egress)).toBe("NOT_IN_MESH");
  expect(code("api.example.com.evil.net", egress)).toBe("NOT_IN_MESH");
  expect(code("evilexample.org.x.y", egress)).toBe("NOT_IN_MESH");
});

test.each(["example.com", "Example.NET.", "example.org:443"])(
  "%s is a host on the internet, no service",
  (authority) => {
    expect(routeAuthority(authority, context)).toMatchObject({
      code: "NOT_IN_MESH",
      hint: expect.stringContaining("no_proxy"),
    });
    expect(code(authority, ["*"])).toBe("egress");
    expect(code(`${authority.replace(/\.?(:\d+)?$/, "")}.mesh`)).toBe("service");
  },
);

test("a name of two labels is outside only where egress lists it by name", () => {
  expect(route("example.io", ["example.io"])).toEqual({ is: "egress", host: "example.io", port: 80 });
  expect(code("example.io", ["*"])).toBe("service");
  expect(code("example.io")).toBe("service");
});

test("bare names and names in .mesh stay inside, whatever egress lists", () => {
  expect(code("orders", ["*", "orders"])).toBe("service");
  expect(code("orders.shop.mesh", ["*", "*.mesh", "orders.shop.mesh"])).toBe("service");
});

test("no text makes it throw, and every service that comes out is named by labels", () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[a-zA-Z0-9.:[\]-]{0,40}$/)), (authority) => {
      const found = routeAuthority(authority, { ...context, egress: ["*"] });
      if (isRefusal(found)) expect(found.message).toMatch(/^Cannot /);
      else if (found.is === "service")
        expect(`${found.service.service}.${found.service.namespace}`).toMatch(/^[a-z0-9-]+\.[a-z0-9-]+$/);
      else expect(found.host).toMatch(/^[a-z0-9._:[\]-]+$/);
    }),
  );
});

test.each([
  ["orders", "service"],
  ["orders:8080", "service"],
  ["orders.shop.mesh", "mesh"],
  ["*.mesh", "mesh"],
  ["*.shop.mesh.", "mesh"],
  ["localhost:80", "this machine"],
  ["*.localhost", "this machine"],
  ["127.0.0.1", "loopback"],
  ["[::ffff:127.0.0.1]:80", "loopback"],
  ["169.254.169.254", "link-local"],
  ["*.10.0.0.1", "below"],
  ["api.example.com:0", "port"],
  ["api.example.com:https", "port"],
  ["https://api.example.com", "URL with the scheme https"],
  ["http://x", "URL with the scheme http"],
  ["http://api.example.com:8080/v1", "URL with the scheme http"],
  ["api.example.com/v1", "path"],
  ["api.*.com", "characters"],
  ["", "characters"],
  ["127.1", "dotted"],
])("%s lets nothing out, and is told so", (entry, because) => {
  expect(whyNotEgress(entry)).toContain(because);
});

test.each([
  "*",
  "*.example.com",
  "*.example.com:443",
  "*.com",
  "api.example.com.",
  "10.0.0.1:80",
  "[2001:db8::1]",
  "example.io",
])("%s may be listed", (entry) => expect(whyNotEgress(entry)).toBeUndefined());

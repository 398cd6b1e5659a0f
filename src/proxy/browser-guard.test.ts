import { expect, test } from "vitest";
import { isRefusal } from "../base/errors.ts";
import type { RequestHead } from "../http/message.ts";
import { browserGuard } from "./browser-guard.ts";

const service = { service: "orders", namespace: "shop" };

function code(authority: string, fields: string[] = [], origins: string[] = []): string {
  const head: RequestHead = { method: "GET", scheme: "http", authority, path: "/", fields, bodyLength: 0 };
  const refusal = browserGuard(service, origins)?.(head);
  return isRefusal(refusal) ? refusal.code : "taken";
}

test.each([
  "localhost",
  "localhost:7001",
  "LOCALHOST:7001",
  "x.localhost:7001",
  "127.0.0.1:7001",
  "127.1.2.3",
  "[::1]:7001",
  "orders",
  "orders.shop:80",
  "orders.shop.mesh",
  "",
])("a program that calls %j is served", (authority) => {
  expect(code(authority)).toBe("taken");
});

test.each([
  "attacker.example",
  "attacker.example:7001",
  "localhost.attacker.example",
  "127.0.0.1.attacker.example",
  "10.0.0.1:7001",
  "orders.other",
  "bills.shop.mesh",
  "0x7f.1",
])("a page whose name %s was pointed to this machine is refused", (authority) => {
  expect(code(authority)).toBe("CROSS_SITE");
});

test.each([
  [["sec-fetch-site", "cross-site"], "CROSS_SITE"],
  [["Sec-Fetch-Site", "cross-site", "origin", "http://localhost:3000"], "CROSS_SITE"],
  [["origin", "https://attacker.example"], "CROSS_SITE"],
  [["Origin", "null"], "CROSS_SITE"],
  [["origin", "http://localhost.attacker.example"], "CROSS_SITE"],
  [["origin", "no url"], "CROSS_SITE"],
  [["sec-fetch-site", "same-origin", "origin", "http://127.0.0.1:7001"], "taken"],
  [["sec-fetch-site", "same-site", "origin", "http://localhost:3000"], "taken"],
  [["sec-fetch-site", "none"], "taken"],
  [["origin", "http://[::1]:3000"], "taken"],
  [["accept", "*/*"], "taken"],
])("what a browser says in %j is %s", (fields, expected) => {
  expect(code("127.0.0.1:7001", fields)).toBe(expected);
});

test("a site that was named may call, and be called; nobody else may", () => {
  const origins = ["https://shop.example"];
  const from = (origin: string): string[] => ["sec-fetch-site", "cross-site", "origin", origin];
  expect(code("127.0.0.1:7001", from("https://shop.example"), origins)).toBe("taken");
  expect(code("shop.example", from("https://Shop.example"), origins)).toBe("taken");
  expect(code("127.0.0.1:7001", from("http://shop.example"), origins)).toBe("CROSS_SITE");
  expect(code("127.0.0.1:7001", from("https://shop.example.attacker.example"), origins)).toBe("CROSS_SITE");
  expect(code("127.0.0.1:7001", ["sec-fetch-site", "cross-site"], origins)).toBe("CROSS_SITE");
});

test("where everybody is named, nothing is looked at", () => {
  expect(browserGuard(service, ["*"])).toBeUndefined();
});

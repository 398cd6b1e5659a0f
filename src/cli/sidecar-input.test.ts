import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { readInput } from "./command.ts";
import { commands } from "./commands.ts";
import { readSidecarInput, type SidecarInput } from "./sidecar-input.ts";

const proxy = commands.find(({ name }) => name === "proxy");
if (proxy === undefined) throw new Error("there is no proxy command");
const terminal = { json: false, out: () => undefined, err: () => undefined };

function read(...args: string[]): SidecarInput {
  return readSidecarInput(
    readInput(proxy as NonNullable<typeof proxy>, ["--service", "web", ...args], {
      environment: { HOME: "/home/web" },
      terminal,
      cwd: "/",
    }),
    "warn",
  );
}

/** What is thrown at these flags. */
function refusalOf(...args: string[]): unknown {
  try {
    return { read: read(...args) };
  } catch (thrown) {
    return thrown;
  }
}

test("--app takes every protocol, with a name or without", () => {
  expect(
    read("--app", "http:8080", "--app", "tcp:6379", "--app", "queue=tcp:5672", "--app", "grpc:50051").ports,
  ).toEqual([
    { name: "http-8080", port: 8080, protocol: "http" },
    { name: "tcp-6379", port: 6379, protocol: "tcp" },
    { name: "queue", port: 5672, protocol: "tcp" },
    { name: "grpc-50051", port: 50051, protocol: "h2" },
  ]);
});

test("--to takes a port or a socket, for a service or one of its ports", () => {
  const redis = { service: "redis", namespace: "default" };
  expect(read("--to", "redis=6379", "--to", "redis:6380=7001", "--to", "redis.shop=/run/r.sock").to).toEqual([
    { service: redis, at: 6379 },
    { service: redis, port: 6380, at: 7001 },
    { service: { service: "redis", namespace: "shop" }, at: "/run/r.sock" },
  ]);
});

test.each([
  ["--to", "redis"],
  ["--to", "=7001"],
  ["--to", "redis="],
  ["--to", "redis:=7001"],
  ["--to", "redis:0=7001"],
  ["--to", "redis:x=7001"],
  ["--to", "redis=0"],
  ["--to", "redis=65536"],
  ["--to", "127.0.0.1:22=7001"],
  ["--app", "udp:53"],
  ["--app", "tcp"],
  ["--app", "tcp:0"],
])("%s %s is refused as usage", (flag, value) => {
  expect(() => read(flag, value)).toThrow(expect.objectContaining({ code: "USAGE" }) as Error);
});

test("--workers takes a number of processes; without it the sidecar is one", () => {
  expect(read().workers).toBe(1);
  expect(read("--workers", "2").workers).toBe(2);
  for (const text of ["0", "65", "two", "-1", "1.5", ""]) expect(() => read("--workers", text)).toThrow("--workers");
});

test("--egress takes hosts outside", () => {
  const listed = ["api.example.com", "api.example.com:443", "*.example.com", "10.0.0.1:8080", "*"];
  expect(read(...listed.flatMap((entry) => ["--egress", entry])).egress).toEqual(listed);
});

test.each([
  "orders",
  "orders:8080",
  "orders.shop.mesh",
  "*.mesh",
  "localhost",
  "127.0.0.1",
  "[::1]:80",
  "169.254.169.254",
])("--egress %s is refused at the start, with what to do instead", (entry) => {
  expect(refusalOf("--egress", entry)).toMatchObject({
    message: expect.stringContaining(`--egress ${entry} lets nothing out of the mesh: `),
    hint: expect.stringContaining("need no --egress"),
  });
});

test.each([
  ["https://api.example.com", "scheme https", "Write --egress api.example.com"],
  ["http://api.example.com:8080/v1?x", "scheme http", "Write --egress api.example.com:8080"],
  ["api.example.com/v1", "path", "Write --egress api.example.com"],
  // What stands in the URL would be refused as well: no such advice.
  ["http://orders", "scheme http", "Name a host outside, such as "],
  ["http://user:secret@api.example.com", "scheme http", "Name a host outside, such as "],
])("--egress %s is refused for what it is, with the host that it means", (entry, why, hint) => {
  expect(refusalOf("--egress", entry)).toMatchObject({
    message: expect.stringContaining(why) as string,
    hint: expect.stringMatching(new RegExp(`^${hint}`)) as string,
  });
});

test("a token is looked at where that takes it from nobody, and one that is gone is none", () => {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-at-hand-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const file = join(folder, "web.token");
  expect(read("--token-file", file).tokenAtHand()).toBeUndefined();
  writeFileSync(file, "abc\n");
  expect(read("--token-file", file).tokenAtHand()).toEqual({ text: "abc" });
  expect(read("--token-file", "-").tokenAtHand()).toEqual({ text: undefined });
  expect(read().tokenAtHand()).toBeUndefined();
});

import { execFileSync } from "node:child_process";
import { constants, mkdtempSync, openSync, readFileSync, readSync, rmSync } from "node:fs";
import { generateKeyPairSync } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { HauberkError } from "../base/errors.ts";
import { waitingBytesMax } from "./log-output.ts";
import { openLog } from "./log.ts";
import { silent } from "./logger.ts";
import { scrub } from "./scrub.ts";

const folder = mkdtempSync(join(tmpdir(), "hauberk-log-"));
afterAll(() => rmSync(folder, { recursive: true }));

const clock = new ManualClock();

const keys = generateKeyPairSync("ec", { namedCurve: "P-256" });
const pem = keys.privateKey.export({ type: "pkcs8", format: "pem" });
const jws = "eyJhbGciOiJFUzI1NiJ9.eyJqdGkiOiJhIn0.c2lnbmF0dXJl";

test("no secret reaches the log, whether by its name, inside a message, in an error, or levels down", () => {
  const file = join(folder, "secrets.log");
  const { logger, flush } = openLog({ level: "debug", to: file, clock });
  logger.info(`token ${jws} and ${pem}`, { token: "s3cr3t", nested: { deep: { passphrase: "s3cr3t" } } });
  logger.warn("headers", { fields: ["authorization", `Bearer ${jws}`], "Proxy-Authorization": "s3cr3t" });
  logger.error("failed", { error: new HauberkError("BUG", `Cannot ${jws}`, "x", new Error(`in ${pem}`)) });
  logger
    .child({ secret: "s3cr3t", key: keys.privateKey })
    .debug("child", { raw: keys.privateKey, at: Buffer.from("s3cr3t") });
  flush();
  const text = readFileSync(file, "utf8");
  for (const secret of ["s3cr3t", "eyJ", "c2lnbmF0dXJl", "PRIVATE KEY", pem.split("\n")[1] as string]) {
    expect(text).not.toContain(secret);
  }
  expect(text.trim().split("\n")).toHaveLength(4);
});

test("a line is JSON with level, time, message and the fields of its parents", () => {
  const file = join(folder, "line.log");
  const { logger, flush } = openLog({ level: "info", to: file, clock, fields: { service: "orders" } });
  logger.child({ instance: "a1" }).info("started", { port: 15443 });
  logger.debug("not written");
  flush();
  const line = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  expect(line).toMatchObject({ level: "info", message: "started", service: "orders", instance: "a1", port: 15443 });
  expect(new Date(line["time"] as string).getTime()).toBeGreaterThan(0);
});

test("an error is written with code, hint and cause", () => {
  const written = scrub(new HauberkError("STATE_LOCKED", "Cannot open", "End the other", new Error("EEXIST")));
  expect(written).toMatchObject({ code: "STATE_LOCKED", hint: "End the other", cause: { message: "EEXIST" } });
});

test("what is endless is cut: depth, items and length", () => {
  const loop: Record<string, unknown> = {};
  loop["self"] = loop;
  expect(JSON.stringify(scrub(loop))).toContain("[deep]");
  expect((scrub(Array.from({ length: 500 }, () => 1)) as unknown[]).length).toBe(50);
  expect((scrub("x".repeat(100_000)) as string).length).toBeLessThan(5_000);
});

test("the silent logger takes everything and says nothing", () => {
  expect(silent.child({ a: 1 })).toBe(silent);
  expect(silent.error("x")).toBeUndefined();
});

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("a full disk costs lines and nothing else, and the end of the process does not wait for it", async () => {
  const { logger, flush } = openLog({ level: "info", to: "/dev/full", clock });
  const waiting = clock.waiting;
  logger.error("there is no room for this");
  // Until the write has failed, and its next try is planned.
  while (clock.waiting === waiting) await turn();
  logger.error("nor for this");
  flush();
  expect(clock.waiting).toBe(waiting);
});

test("a reader that does not read costs so much memory and no more, and is told how many lines it lost", async () => {
  const pipe = join(folder, "pipe");
  execFileSync("mkfifo", [pipe]);
  const fd = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK);
  const { logger, raw, flush } = openLog({ level: "info", to: fd, clock });
  const line = `${"x".repeat(1_023)}\n`;
  const sent = (2 * waitingBytesMax) / line.length;
  for (let count = 0; count < sent; count++) raw(line);
  logger.info("one more");
  const into = Buffer.alloc(65_536);
  let text = "";
  while (!text.includes("were lost")) {
    try {
      text += into.toString("latin1", 0, readSync(fd, into));
    } catch {
      clock.advance(1_000); // It was empty: the next try.
      await turn();
    }
  }
  const told = JSON.parse(text.trimEnd().split("\n").at(-1) as string) as { lines: number };
  const arrived = text.split(line).length - 1;
  expect(arrived).toBeLessThanOrEqual(waitingBytesMax / line.length);
  expect(arrived + told.lines).toBe(sent + 1);
  flush();
});

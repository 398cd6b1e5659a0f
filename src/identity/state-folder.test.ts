import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { isRefusal } from "../base/errors.ts";
import { silent, type Logger } from "../telemetry/logger.ts";
import { StateFolder } from "./state-folder.ts";
import { takeLock } from "./state-lock.ts";

const base = mkdtempSync(join(tmpdir(), "hauberk-state-"));
afterAll(() => rmSync(base, { recursive: true }));
let count = 0;
const fresh = (): string => join(base, `s${count++}`, "deep");
const clock = new ManualClock();

function folderWith(log: Logger = silent): Promise<StateFolder> {
  return StateFolder.open(fresh(), { clock, log });
}

test("the folder is closed to others and so is every file in it, also where it was open before", async () => {
  const folder = await folderWith();
  await folder.write("a.json", "{}");
  expect(statSync(folder.path).mode & 0o777).toBe(0o700);
  for (const name of readdirSync(folder.path)) {
    expect([name, statSync(join(folder.path, name)).mode & 0o077]).toEqual([name, 0]);
  }
  await folder.close();
  chmodSync(folder.path, 0o755);
  await (await StateFolder.open(folder.path, { clock, log: silent })).close();
  expect(statSync(folder.path).mode & 0o777).toBe(0o700);
});

test("a start that is given up in the turn in which it made the folder leaves none", async () => {
  const path = fresh();
  const giveUp = new AbortController();
  const opened = StateFolder.open(path, { clock, log: silent, givenUp: giveUp.signal });
  expect(existsSync(path)).toBe(true);
  giveUp.abort();
  expect(existsSync(path)).toBe(false);
  await opened.catch(() => undefined);
});

test("what was written is read, and what was never written is undefined", async () => {
  const folder = await folderWith();
  await Promise.all([folder.write("a", "1"), folder.write("a", "2"), folder.write("b", "")]);
  expect([await folder.read("a"), await folder.read("b"), await folder.read("c")]).toEqual(["2", "", undefined]);
  await folder.remove("a");
  expect(await folder.read("a")).toBeUndefined();
  await folder.close();
});

test("a file that was changed, cut or replaced is set aside, logged, and counts as missing", async () => {
  const told: string[] = [];
  const folder = await folderWith({ ...silent, error: (message) => void told.push(message) });
  const spoil: ((text: string) => string)[] = [
    (text) => text.replace("good", "evil"),
    (text) => text.slice(0, -1),
    () => "",
    () => "# hauberk-state 1 sha256:00\nx",
  ];
  for (const how of spoil) {
    await folder.write("x", "all good here");
    writeFileSync(join(folder.path, "x"), how(readFileSync(join(folder.path, "x"), "utf8")));
    expect(await folder.read("x")).toBeUndefined();
    expect(readdirSync(folder.path)).not.toContain("x");
  }
  expect(told).toHaveLength(4);
  expect(readdirSync(folder.path).some((name) => name.startsWith("x.damaged-"))).toBe(true);
  await folder.close();
});

test("only the newest damaged files are kept", async () => {
  const folder = await folderWith();
  for (let i = 0; i < 9; i++) {
    writeFileSync(join(folder.path, "x"), "bad");
    clock.advance(1_000);
    await folder.read("x");
  }
  expect(readdirSync(folder.path).filter((name) => name.includes(".damaged-"))).toHaveLength(5);
  await folder.close();
});

test("a write that a kill cut short leaves the old file, and its rest is swept away", async () => {
  const folder = await folderWith();
  await folder.write("x", "old");
  await folder.close();
  writeFileSync(join(folder.path, ".x.123.0.tmp"), "half");
  const again = await StateFolder.open(folder.path, { clock, log: silent });
  expect(await again.read("x")).toBe("old");
  expect(readdirSync(folder.path).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  await again.close();
});

test("a name that would leave the folder is refused as a bug", async () => {
  const folder = await folderWith();
  await expect(folder.write("../x", "")).rejects.toMatchObject({ code: "BUG" });
  await expect(folder.read(".hidden")).rejects.toMatchObject({ code: "BUG" });
  await folder.close();
});

test("a start that came to nothing leaves no folder behind, and one that kept something leaves it", async () => {
  const folder = await folderWith();
  await folder.write("x", "kept for a moment");
  await folder.remove("x");
  await folder.abandon();
  expect(existsSync(dirname(folder.path))).toBe(false);

  const keeping = await folderWith();
  await keeping.write("x", "kept");
  await keeping.abandon();
  const again = await StateFolder.open(keeping.path, { clock, log: silent });
  expect(await again.read("x")).toBe("kept");
  await again.remove("x");
  // It was there before this opening: somebody may have made it for a reason.
  await again.abandon();
  expect(readdirSync(keeping.path).toSorted()).toEqual(["lock", "lock.pid"]);
  await (await StateFolder.open(keeping.path, { clock, log: silent })).close();
});

test("a start that came to nothing is not told otherwise where somebody removed its folder meanwhile", async () => {
  const folder = await folderWith();
  rmSync(folder.path, { recursive: true });
  await folder.abandon();
  await (await StateFolder.open(folder.path, { clock, log: silent })).close();
});

test("a second opening is refused with STATE_LOCKED and the holder's number, and passes after the first has closed", async () => {
  const folder = await folderWith();
  await expect(StateFolder.open(folder.path, { clock, log: silent })).rejects.toMatchObject({
    code: "STATE_LOCKED",
    message: expect.stringContaining(`process ${process.pid} `) as unknown,
  });
  await folder.close();
  await (await StateFolder.open(folder.path, { clock, log: silent })).close();
});

test("a process that is killed with -9 leaves no lock behind", async () => {
  const folder = await folderWith();
  await folder.close();
  const lock = fileURLToPath(new URL("state-lock.ts", import.meta.url));
  const script = `const { takeLock } = await import(${JSON.stringify(lock)}); takeLock(${JSON.stringify(folder.path)}); process.stdout.write("held"); process.stdin.resume();`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["pipe", "pipe", "inherit"] });
  await once(child.stdout, "data");
  const refused = takeLock(folder.path);
  expect(
    isRefusal(refused) && refused.code === "STATE_LOCKED" && refused.message.includes(`process ${child.pid} `),
  ).toBe(true);
  child.kill("SIGKILL");
  await once(child, "exit");
  const taken = takeLock(folder.path);
  expect(isRefusal(taken)).toBe(false);
  if (!isRefusal(taken)) taken.release();
});

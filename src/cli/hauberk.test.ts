import { execFile, spawn } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import { isRefusal } from "../base/errors.ts";
import { takeLock } from "../identity/state-lock.ts";
import { signCompact } from "../x509/jws.ts";

const program = fileURLToPath(new URL("hauberk.ts", import.meta.url));

interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Starts the program the way a shell does, on a Node that says it is `version`. */
function start(args: readonly string[], version = process.versions.node): Promise<Ended> {
  const pretend = `Object.defineProperty(process, "versions", { value: { ...process.versions, node: "${version}" } })`;
  return startWith(pretend, args);
}

/** Starts it after a module of `before`. */
function startWith(before: string, args: readonly string[]): Promise<Ended> {
  const node = ["--import", `data:text/javascript,${encodeURIComponent(before)}`, program, ...args];
  return new Promise((resolve) => {
    const child = execFile(process.execPath, node, (_, out, err) => resolve({ code: child.exitCode ?? -1, out, err }));
  });
}

test.each(["20.19.0", "22.14.0", "24.16.9"])(
  "Node %s is refused with a sentence and the next step",
  async (version) => {
    const { code, out, err } = await start(["--version"], version);
    expect(code).toBe(69);
    expect(out).toBe("");
    expect(err).toMatch(
      /^error: Cannot start hauberk: this is Node .* wanted 24\.17 or later \(NODE_TOO_OLD\)\nhint: /,
    );
  },
);

test.each(["24.17.0", "26.0.0"])("Node %s is new enough", async (version) => {
  expect(await start(["--version"], version)).toMatchObject({
    code: 0,
    err: "",
    out: expect.stringMatching(/^hauberk \d/) as string,
  });
});

test("without a command the overview is shown, as a usage error", async () => {
  const { code, out } = await start([]);
  expect(code).toBe(2);
  expect(out).toContain("policy explain");
});

test("an unknown command ends with 2, on standard error", async () => {
  const { code, out, err } = await start(["fly", "--json"]);
  expect({ code, out }).toEqual({ code: 2, out: "" });
  expect(JSON.parse(err)).toMatchObject({ code: "USAGE", hint: "See hauberk --help" });
});

test("the first word of a family names the family", async () => {
  expect((await start(["policy"])).err).toContain('"policy" needs one of apply, test, explain');
});

test.each([
  [["certs", "lst"], "certs list"],
  [["policy", "aply", "policies"], "policy apply"],
  [["admin", "isue", "alice"], "admin issue"],
])("a second word that is nearly right is answered with the command that was meant: %j", async (args, meant) => {
  const { code, err } = await start(args);
  expect(code).toBe(2);
  expect(err).toContain(`"${args[1]}" is no command of "${args[0]}"`);
  expect(err).toContain(`hint: Did you mean hauberk ${meant}? See hauberk ${args[0]} --help`);
});

test("a second word that is nowhere near is answered with the family", async () => {
  const { err } = await start(["policy", "frobnicate", "x"]);
  expect(err).toMatch(/which has apply, test, explain.*\nhint: See hauberk policy --help/);
});

test("every command shows its help without doing anything", async () => {
  const { code, out } = await start(["policy", "explain", "--help"]);
  expect(code).toBe(0);
  expect(out).toContain("Usage: hauberk policy explain");
});

test("help before a command is the command's, and a family's help lists the family", async () => {
  const asked = await start(["help", "policy", "explain"]);
  expect(asked).toMatchObject({ code: 0, err: "" });
  expect(asked.out).toContain("Usage: hauberk policy explain");
  const family = await start(["policy", "--help"]);
  expect(family).toMatchObject({ code: 0, err: "" });
  expect(family.out).toMatch(/policy apply .*\n.*policy test .*\n.*policy explain /);
  expect((await start(["help", "fly"])).code).toBe(2);
});

test("a mesh home where no folder can be made is a usage error, not a bug", async () => {
  const { code, err } = await start(["init", "/dev/null/mesh"]);
  expect(code).toBe(2);
  expect(err).toMatch(/^error: Cannot make a mesh home in \/dev\/null\/mesh: .*\(USAGE\)\nhint: [^\n]*\n$/);
});

test.each(["EACCES", "EPERM", "EROFS"])("a place that the system keeps from this user (%s) is no bug", async (code) => {
  const forbid = `import fs from "node:fs"; import { syncBuiltinESMExports } from "node:module";
    const mkdir = fs.mkdirSync;
    fs.mkdirSync = (path, ...more) => {
      if (!path.endsWith("kept")) return mkdir(path, ...more);
      throw Object.assign(new Error("${code}: no"), { code: "${code}", path });
    };
    syncBuiltinESMExports();`;
  const state = join(tmpdir(), "hauberk-kept", "kept");
  const run = await startWith(forbid, ["run", "--service", "web", "--state", state, "--", "true"]);
  expect(run.err).toBe(
    `error: Cannot make the folder ${state}: ${code === "EROFS" ? "that file system is read-only" : "this user may not"} (USAGE)\n` +
      "hint: Name a place where this user may make folders (--home, --state, XDG_STATE_HOME), or run this as the user whom it belongs to\n",
  );
  expect([run.code, existsSync(join(state, ".."))]).toEqual([2, false]);
});

test("a file that the system keeps from this user is no bug either", async () => {
  const forbid = `import fs from "node:fs"; import { syncBuiltinESMExports } from "node:module";
    const chmod = fs.chmodSync;
    fs.chmodSync = (path, ...more) => {
      if (!path.endsWith("lock")) return chmod(path, ...more);
      throw Object.assign(new Error("EPERM: no"), { code: "EPERM", path });
    };
    syncBuiltinESMExports();`;
  const state = mkdtempSync(join(tmpdir(), "hauberk-kept-"));
  onTestFinished(() => rmSync(state, { recursive: true }));
  const run = await startWith(forbid, ["run", "--service", "web", "--state", state, "--", "true"]);
  expect(run.err).toBe(
    `error: Cannot use ${join(state, "lock")}: this user may not (USAGE)\n` +
      "hint: Run this as the user whom it belongs to, or name another place (--home, --state)\n",
  );
  expect(run.code).toBe(2);
});

test.skipIf(process.platform !== "linux")(
  "a state folder in a place that takes no folders ends at once with the reason (skipped without /proc)",
  async () => {
    const ended = await Promise.all([
      start(["run", "--service", "web", "--state", "/proc/hauberk/web", "--", "true"]),
      start(["init", "/proc/hauberk"]),
    ]);
    for (const { code, err } of ended) {
      expect(code).toBe(2);
      expect(err).toMatch(
        /^error: Cannot make .* \/proc\/hauberk.*: that file system takes no new folders \(USAGE\)\nhint: /,
      );
    }
  },
);

test("a mesh home whose passphrases cannot be kept is not begun", async () => {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-init-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, "file"), "");
  const home = join(folder, "mesh");
  const { code, err } = await startWith(`process.env.XDG_STATE_HOME = ${JSON.stringify(join(folder, "file"))};`, [
    "init",
    home,
  ]);
  expect([code, existsSync(join(home, "ca"))]).toEqual([2, false]);
  expect(err).toContain(`Cannot keep passphrases in ${join(folder, "file", "hauberk", "passphrases")}: `);
});

test("Ctrl-C while init makes a mesh home leaves a whole one", async () => {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-init-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const home = join(folder, "mesh");
  const interrupt = `import fs from "node:fs"; import { syncBuiltinESMExports } from "node:module";
    process.env.XDG_STATE_HOME = ${JSON.stringify(join(folder, "state"))};
    const link = fs.linkSync;
    fs.linkSync = (from, to) => {
      link(from, to);
      if (to.endsWith("root.key")) process.kill(process.pid, "SIGINT");
    };
    syncBuiltinESMExports();`;
  const { code, out, err } = await startWith(interrupt, ["init", home]);
  expect([code, out]).toEqual([0, expect.stringContaining("A mesh home in")]);
  expect(err).toContain("finished first");
  expect(existsSync(join(home, "certs", "admin", "admin.pem"))).toBe(true);
});

test.each([
  ["without hauberk.yaml", [], "there is a CA, and no hauberk.yaml", "remove"],
  ["without an administrator", ["hauberk.yaml"], "certs/admin holds no administrator", "hauberk admin issue admin"],
  ["as init makes it", ["hauberk.yaml", "certs/admin/alice.pem"], "it has a CA already", "hauberk control"],
])("a mesh home %s is named as that where init finds it", async (_, files, what, then) => {
  const home = mkdtempSync(join(tmpdir(), "hauberk-half-"));
  onTestFinished(() => rmSync(home, { recursive: true }));
  for (const file of ["ca/root.key", "certs/admin/roots.pem", ...files]) {
    mkdirSync(join(home, file, ".."), { recursive: true });
    writeFileSync(join(home, file), "");
  }
  const { code, err } = await start(["init", home]);
  expect([code, err]).toEqual([2, expect.stringMatching(new RegExp(`${what}.*\\(HOME_EXISTS\\)\nhint: .*${then}`))]);
});

test("a second control plane for the same mesh home does not start", async () => {
  const home = mkdtempSync(join(tmpdir(), "hauberk-two-"));
  onTestFinished(() => rmSync(home, { recursive: true }));
  writeFileSync(join(home, "hauberk.yaml"), "trustDomain: a.example\n");
  mkdirSync(join(home, "certs", "control"), { recursive: true });
  const lock = takeLock(join(home, "certs", "control"));
  if (isRefusal(lock)) throw new Error(lock.message);
  onTestFinished(() => lock.release());
  const { code, err } = await start(["control", "--home", home, "--json"]);
  expect(code).toBe(69);
  expect(JSON.parse(err)).toMatchObject({ code: "STATE_LOCKED" });
});

test.each(["stdout", "stderr"] as const)("whoever stops reading %s ends nothing by that", async (name) => {
  const words = name === "stdout" ? ["--help"] : ["fly"];
  // It is started when the reader is gone already.
  const child = spawn(process.execPath, [program, ...words], { stdio: ["ignore", "pipe", "pipe"] });
  child[name].destroy();
  let said = "";
  const other = name === "stdout" ? child.stderr : child.stdout;
  other.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const [code] = (await once(child, "close")) as [number | null];
  expect({ code, said }).toEqual({ code: name === "stdout" ? 0 : 2, said: "" });
});

test("a CA that lost its root's certificate is not to be made anew over its keys", async () => {
  const home = mkdtempSync(join(tmpdir(), "hauberk-rootless-"));
  onTestFinished(() => rmSync(home, { recursive: true }));
  writeFileSync(join(home, "hauberk.yaml"), "trustDomain: a.example\n");
  expect((await start(["control", "--home", home])).err).toContain("hint: Run hauberk init there");
  mkdirSync(join(home, "ca"));
  writeFileSync(join(home, "ca", "root.key"), "");
  expect((await start(["control", "--home", home])).err).toContain("put ca/root.crt back from a backup");
});

test("a policy file in the place of a folder is told as what it is", async () => {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-policy-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const file = join(folder, "p.yaml");
  writeFileSync(file, "");
  expect((await start(["policy", "test", file])).err).toContain(`${file} is a file, and a folder was wanted`);
  expect((await start(["policy", "test", join(folder, "no")])).err).toContain(
    `there is no folder ${join(folder, "no")}`,
  );
});

test.each([
  ["run", "SIGINT", 130],
  ["proxy", "SIGTERM", 143],
] as const)(
  "hauberk %s that is ended by %s as it waits to enroll leaves nothing behind",
  async (name, signal, code) => {
    const folder = mkdtempSync(join(tmpdir(), "hauberk-waits-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const claims = {
      jti: "t1",
      urls: ["https://127.0.0.1:1"],
      roots: ["0".repeat(64)],
      trustDomain: "a.example",
      sub: "spiffe://a.example/ns/default/sa/web",
      exp: 9e9,
    };
    const token = signCompact(claims, generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey);
    const args = [name, "--service", "web", "--state", join(folder, "state", "web"), "--token-file", "-"];
    const child = spawn(process.execPath, [program, ...args, ...(name === "run" ? ["--", "true"] : [])]);
    onTestFinished(() => void child.kill("SIGKILL"));
    child.stdin.end(token);
    const ended = once(child, "close");
    let said = "";
    await new Promise<void>((resolve) => {
      const hear = (chunk: Buffer): void => {
        said += chunk.toString();
        if (said.includes("cannot be enrolled yet")) resolve();
      };
      child.stdout.on("data", hear);
      child.stderr.on("data", hear);
      void ended.then(() => resolve());
    });
    expect([said, existsSync(join(folder, "state", "web", "lock"))]).toEqual([
      expect.stringContaining("127.0.0.1:1"),
      true,
    ]);
    child.kill(signal);
    expect(await ended).toEqual([code, null]);
    expect(existsSync(join(folder, "state"))).toBe(false);
  },
);

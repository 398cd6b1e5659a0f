import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { delimiter, dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildCopy, repository } from "../support/built-copy.ts";
import { Mesh } from "../support/mesh.ts";

/** `import … from "a"`, `import "a"`, `import("a")`, as the compiler writes them. */
const imports = /^(?:import|export)\b[^"']*?\bfrom "([^"]+)"|^import "([^"]+)"|\bimport\("([^"]+)"\)/gm;

/** All that may be published. */
const expected = [
  /^package\.json$/,
  /^(README|CHANGELOG|SECURITY)\.md$/,
  /^LICENSE$/,
  /^profiles\/(root|intermediate|control|admin|workload)\.json$/,
  /^lib\/[a-z0-9]+\/([a-z0-9-]+\/)*[a-z0-9-]+\.js$/,
];

let mesh: Mesh;
let tarball: string;
let packed: string;

/** A mesh home full of keys is the very folder in which the package is built. */
beforeAll(async () => {
  mesh = await Mesh.create();
  await mesh.control();
  await mesh.sidecar("orders");
  writeFileSync(join(mesh.home, "orders.token"), readFileSync(await mesh.token("orders")));
  const built = buildCopy(mesh.home);
  const folder = join(mesh.folder, "packed");
  mkdirSync(folder);
  // By the npm that belongs to whoever runs this; it packs a folder and asks no registry.
  execFileSync("npm", ["pack", "--offline", "--pack-destination", folder], { cwd: built, stdio: "pipe" });
  tarball = join(folder, readdirSync(folder)[0] ?? "");
  packed = join(mesh.folder, "bin-prefix", "lib", "node_modules", "hauberk");
  mkdirSync(packed, { recursive: true });
  execFileSync("tar", ["-xzf", tarball, "-C", packed, "--strip-components=1"]);
});

afterAll(() => mesh.end());

test("the tarball of a mesh home full of keys holds what is expected, and nothing else", () => {
  const entries = execFileSync("tar", ["-tzf", tarball], { encoding: "utf8" }).trim().split("\n");
  const names = entries.map((entry) => entry.replace(/^package\//, ""));
  expect(names.filter((name) => !expected.some((pattern) => pattern.test(name)))).toEqual([]);
  for (const pattern of expected)
    expect(
      names.some((name) => pattern.test(name)),
      String(pattern),
    ).toBe(true);
  expect(names.filter((name) => /\.test\.|-contract\.js$/.test(name))).toEqual([]);
  // No Node binary is that small, and no list of names is that sure.
  expect(statSync(tarball).size).toBeLessThan(2 * 1024 * 1024);
});

test("no file of it holds a line of a key, a token or a passphrase of that home", () => {
  const secrets = secretLines(mesh.folder);
  // The CA's three keys, two SVIDs and a recovery key, a token, two passphrases: the search would find something.
  expect(secrets.size).toBeGreaterThan(15);
  const found: string[] = [];
  for (const file of filesBelow(packed)) {
    const text = readFileSync(file, "latin1");
    for (const secret of secrets) if (text.includes(secret)) found.push(`${file}: ${secret}`);
    if (/-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{20}/.test(text)) found.push(`${file}: a key`);
  }
  expect(found).toEqual([]);
});

test("its manifest names every package that its files import, and says from which Node on it runs", () => {
  const manifest = JSON.parse(readFileSync(join(packed, "package.json"), "utf8")) as {
    dependencies: Record<string, string>;
    engines: { node: string };
    scripts?: unknown;
    bin: Record<string, string>;
  };
  const imported = new Set<string>();
  for (const file of filesBelow(join(packed, "lib"))) {
    for (const [, before, alone, later] of readFileSync(file, "utf8").matchAll(imports)) {
      const from = before ?? alone ?? later ?? "";
      if (from.startsWith(".") || from.startsWith("node:") || builtinModules.includes(from)) continue;
      imported.add(
        from
          .split("/")
          .slice(0, from.startsWith("@") ? 2 : 1)
          .join("/"),
      );
    }
  }
  expect(imported.size).toBeGreaterThan(3);
  expect([...imported].filter((name) => !Object.hasOwn(manifest.dependencies, name))).toEqual([]);
  for (const version of Object.values(manifest.dependencies)) expect(version).toMatch(/^\d+\.\d+\.\d+$/);
  expect(manifest.engines.node).toBe(">=24.17");
  expect(manifest.scripts).toBeUndefined();
});

test("installed, its bin runs: a version, a help, and a CA by hauberk init", () => {
  const bin = install();
  const version = JSON.parse(readFileSync(join(repository, "package.json"), "utf8")) as { version: string };
  expect(hauberk(bin, ["--version"])).toMatchObject({ status: 0, stdout: `hauberk ${version.version}\n` });
  expect(hauberk(bin, ["run", "--help"]).stdout).toContain("hauberk run --service web -- curl");
  const home = join(mesh.folder, "installed-home");
  const made = hauberk(bin, ["init", home, "--trust-domain", "packed.test", "--json"]);
  expect(made.stderr).toBe("");
  expect(made.status).toBe(0);
  expect(readdirSync(join(home, "ca")).filter((name) => name.endsWith(".key"))).toHaveLength(3);
});

test("under an old Node its bin says NODE_TOO_OLD and what to do, instead of a syntax error", (context) => {
  const old = oldNode();
  if (old === undefined) {
    context.skip("no Node below 24 is on the PATH");
    return;
  }
  const bin = install();
  const ran = spawnSync(old, [bin, "--version"], { encoding: "utf8" });
  expect(ran.stderr).toMatch(
    /^error: Cannot start hauberk: this is Node \d+\.[\d.]+, .* \(NODE_TOO_OLD\)\nhint: Install Node 24/,
  );
  expect(ran.stdout).toBe("");
  expect(ran.status).toBe(69);
});

/** As `npm install -g --prefix` lays it out; its dependencies are this repository's, at the same versions. */
function install(): string {
  const bin = join(mesh.folder, "bin-prefix", "bin", "hauberk");
  if (existsSync(bin)) return bin;
  symlinkSync(join(repository, "node_modules"), join(packed, "node_modules"));
  mkdirSync(dirname(bin));
  const { bin: bins } = JSON.parse(readFileSync(join(packed, "package.json"), "utf8")) as { bin: { hauberk: string } };
  symlinkSync(join(packed, bins.hauberk), bin);
  return bin;
}

/** Started by its name alone, as a shell does: it has to be executable and to name its interpreter. */
function hauberk(bin: string, args: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  const path = [dirname(process.execPath), process.env["PATH"]].join(delimiter);
  return spawnSync(bin, args, { encoding: "utf8", cwd: mesh.folder, env: { ...mesh.environment, PATH: path } });
}

/** One that this repository did not install. */
function oldNode(): string | undefined {
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => !folder.includes("node_modules"));
  return folders
    .map((folder) => join(folder, "node"))
    .find((node) => {
      if (!existsSync(node)) return false;
      const { stdout } = spawnSync(node, ["--version"], { encoding: "utf8" });
      return Number(/^v(\d+)/.exec(stdout)?.[1] ?? 99) < 24;
    });
}

/** Lines of keys, tokens and passphrases of every file of this mesh that is not the package's. */
function secretLines(folder: string): Set<string> {
  const lines = new Set<string>();
  for (const file of filesBelow(folder)) {
    if (/\/(dist|src|packed|bin-prefix|node_modules)\//.test(file)) continue;
    const text = readFileSync(file, "latin1");
    for (const [, body = ""] of text.matchAll(/-----BEGIN [A-Z ]*PRIVATE KEY-----([\s\S]+?)-----END/g)) {
      // The first line of a key says only of which kind it is.
      for (const line of body.split(/\\n|\n/).slice(2)) if (line.length >= 16) lines.add(line);
    }
    if (/\.(token|passphrase)$|\/passphrases\//.test(file)) lines.add(text.trim());
  }
  return lines;
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

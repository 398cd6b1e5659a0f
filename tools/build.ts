import { execFileSync } from "node:child_process";
import { chmodSync, cpSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/**
 * Builds the package that is published: a folder of its own with a manifest of its own, so that nothing of a mesh home
 * (CA keys, certificates) and nothing of this repository (Node binaries, tests) can ever be packed.
 */
const root = fileURLToPath(new URL("../", import.meta.url));
const out = join(root, "dist", "package");

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
execFileSync(process.execPath, [join(root, "node_modules", "typescript", "bin", "tsc"), "-p", "tsconfig.build.json"], {
  cwd: root,
  stdio: "inherit",
});

const source = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
  version: string;
  description: string;
  license: string;
  dependencies: Record<string, string>;
};
const manifest = {
  name: "hauberk",
  version: source.version,
  description: source.description,
  license: source.license,
  type: "module",
  bin: { hauberk: "lib/cli/hauberk.js" },
  engines: { node: ">=24.17" },
  files: ["lib", "profiles", "README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md"],
  dependencies: source.dependencies,
};
writeFileSync(join(out, "package.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);
for (const name of ["README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md"]) cpSync(join(root, name), join(out, name));
// The profiles alone: everything else in ca/ is a secret of whoever builds.
mkdirSync(join(out, "profiles"));
for (const name of readdirSync(join(root, "ca", "profiles")))
  cpSync(join(root, "ca", "profiles", name), join(out, "profiles", name));
chmodSync(join(out, "lib", "cli", "hauberk.js"), 0o755);

import { execFileSync, spawn, spawnSync, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { freePort } from "../scenario/routees.ts";

/**
 * The packed tarball, installed globally as a person would, under each Node that it promises: `npm run install-check`.
 * Node and the dependencies come from the npm registry. Every command runs by its name, and what it printed under one Node
 * must be what it printed under the other. An older Node must be refused with the hint.
 */
const repository = fileURLToPath(new URL("../../", import.meta.url));
const folder = realpathSync(mkdtempSync(join(tmpdir(), "hauberk-install-")));
/** The last release that is too old, and the oldest line that is not. */
const versions = { refused: "24.16.0", oldest: "24.21.0" } as const;

interface Step {
  readonly title: string;
  readonly status: number;
  readonly printed: string;
}

const children = new Set<ChildProcess>();
async function main(): Promise<void> {
  const tarball = pack();
  const nodes = [nodeFromRegistry(versions.oldest), process.execPath];
  const stories: Step[][] = [];
  const bins: string[] = [];
  for (const node of nodes) {
    const release = versionOf(node);
    const prefix = join(folder, `prefix-${release}`);
    npm(["install", "-g", "--prefix", prefix, "--no-fund", "--no-audit", tarball], node);
    const bin = join(prefix, "bin", "hauberk");
    bins.push(bin);
    console.log(`Node ${release}: installed from ${tarball.split("/").at(-1)}`);
    stories.push(await story({ release, node, bin }));
  }
  const wrong = [...differences(stories[0] ?? [], stories[1] ?? [], nodes.map(versionOf)), ...refusals(bins[0] ?? "")];
  for (const text of wrong) console.error(`NOT THE SAME  ${text}`);
  if (wrong.length === 0) console.log(`The same hauberk under Node ${nodes.map(versionOf).join(" and ")}`);
  process.exitCode = wrong.length === 0 ? 0 : 1;
}

function pack(): string {
  const built = join(repository, "dist", "package");
  const [packed] = JSON.parse(npm(["pack", "--json", "--pack-destination", folder, built], process.execPath)) as [
    { filename: string },
  ];
  return join(folder, packed.filename);
}

/** As the packages on the registry are called that hold nothing but the binary. */
function nodeFromRegistry(version: string): string {
  const name = process.platform === "darwin" ? `node-bin-darwin-${process.arch}` : `node-linux-${process.arch}`;
  const prefix = join(folder, `node-${version}`);
  npm(["install", "--prefix", prefix, "--no-fund", "--no-audit", `${name}@${version}`], process.execPath);
  return join(prefix, "node_modules", name, "bin", "node");
}

/** npm, run by the Node that is looked at; what `npm run` told this process about its own project is not for it. */
function npm(args: readonly string[], node: string): string {
  const told = /^npm_(?:lifecycle|package|config_(?:local_prefix|global_prefix|prefix|workspaces?))|^INIT_CWD$/i;
  const rest = Object.entries(process.env).filter(([name]) => !told.test(name));
  const path = [dirname(node), ...withoutNodeModules()].join(delimiter);
  return execFileSync("npm", [...args, "--loglevel=error"], {
    cwd: folder,
    encoding: "utf8",
    env: { ...Object.fromEntries(rest), PATH: path },
    stdio: ["ignore", "pipe", "inherit"],
  });
}

function withoutNodeModules(): string[] {
  return (process.env["PATH"] ?? "").split(delimiter).filter((entry) => !entry.includes("node_modules"));
}

function versionOf(node: string): string {
  return execFileSync(node, ["--version"], { encoding: "utf8" }).trim().slice(1);
}

/** What a newcomer does, with the words of the README: every line is `hauberk` by its name, on the PATH. */
async function story(under: { release: string; node: string; bin: string }): Promise<Step[]> {
  const shop = join(folder, `shop-${under.release}`);
  mkdirSync(shop);
  const environment = {
    HOME: shop,
    XDG_STATE_HOME: join(shop, "state"),
    PATH: [dirname(under.bin), dirname(under.node), ...withoutNodeModules()].join(delimiter),
  };
  const steps: Step[] = [];
  const step = (...args: string[]): Step => {
    const ran = spawnSync("hauberk", args, { cwd: shop, env: environment, encoding: "utf8", timeout: 60_000 });
    const printed = masked(`${ran.stdout}${ran.stderr}${ran.error?.message ?? ""}`, shop);
    const made: Step = { title: `hauberk ${masked(args.join(" "), shop)}`, status: ran.status ?? -1, printed };
    steps.push(made);
    return made;
  };
  const start = async (...args: string[]): Promise<{ ready: Record<string, unknown>; end: () => Promise<void> }> => {
    const child = spawn("hauberk", args, { cwd: shop, env: environment, stdio: ["ignore", "pipe", "pipe"] });
    children.add(child);
    const exited = new Promise<number>((resolve) => child.once("exit", (code) => resolve(code ?? -1)));
    const { line, ready } = await readyOf(child, exited);
    const title = `hauberk ${masked(args.join(" "), shop)}`;
    const end = async (): Promise<void> => {
      child.kill("SIGTERM");
      steps.push({ title: `${title}, ended`, status: await exited, printed: "" });
      children.delete(child);
    };
    steps.push({ title, status: 0, printed: masked(line, shop) });
    return { ready, end };
  };

  step("--version");
  step("--help");
  step("no-such-command");
  for (const command of ["init", "control", "token create", "run", "policy apply", "check"])
    step(...command.split(" "), "--help");
  step("init", "--trust-domain", "shop.example");
  const control = await start("control", "--mesh", "127.0.0.1:0", "--enrollment", "127.0.0.1:0", "--json");
  const at = ["--control", `https://127.0.0.1:${Number(control.ready["mesh"])}`];
  for (const service of ["orders", "web"])
    step("token", "create", "--service", service, "--out", `${service}.token`, ...at);
  const port = await freePort();
  const answer = `require("http").createServer((q, r) => r.end("order 1\\n")).listen(${port}, "127.0.0.1")`;
  const sidecar = ["--app", `http:${port}`, "--token-file", "orders.token", "--inbound-host", "127.0.0.1"];
  const orders = await start("run", "--service", "orders", ...sidecar, "--json", "--", "node", "-e", answer);
  const call = ["--", "curl", "-s", "-w", "%{http_code} %header{x-hauberk-code}\\n", "http://orders/orders/1"];
  step("run", "--service", "web", "--token-file", "web.token", ...call);
  mkdirSync(join(shop, "policies"), { recursive: true });
  writeFileSync(join(shop, "policies", "orders.yaml"), policy);
  step("policy", "apply", ...at);
  step("run", "--service", "web", ...call);
  const got = 'require("http").get("http://orders/orders/1", (r) => r.pipe(process.stdout))';
  step("run", "--service", "web", "--", "node", "-e", got);
  // Node 24 tunnels it through CONNECT, Node 26 asks in absolute form.
  const fetched = 'fetch("http://orders/orders/1").then((r) => r.text()).then((t) => process.stdout.write(t))';
  step("run", "--service", "web", "--", "node", "-e", fetched);
  step("run", "--service", "web", "--", "node", "-e", "process.exit(7)");
  step("policy", "explain", "--from", "web", "--to", "orders", "DELETE", "/orders/1");
  step("services", ...at);
  step("certs", "list", ...at);
  step("certs", "inspect", "ca/root.crt");
  step("token", "list", ...at);
  await orders.end();
  await control.end();
  step("services", ...at);
  for (const [title, wanted] of Object.entries(expected)) {
    const found = steps.filter((made) => made.title.includes(title)).map((made) => `${made.status} ${made.printed}`);
    if (!found.some((text) => wanted.test(text)))
      throw new Error(`Node ${under.release}: "hauberk … ${title}" gave ${JSON.stringify(found)}, wanted ${wanted}`);
  }
  console.log(`Node ${under.release}: ${steps.length} steps`);
  return steps;
}

/** Two that fail alike are the same, and no hauberk: what must have happened. */
const expected: Readonly<Record<string, RegExp>> = {
  "--version": /^0 hauberk \d/,
  init: /^0 [^]*shop\.example/,
  "run --service web --token-file": /^0 [^]*404 SERVICE_UNKNOWN/,
  "run --service web -- curl": /^0 order 1\n200/,
  "run --service web -- node -e require": /^0 order 1\n$/,
  "run --service web -- node -e fetch": /^0 order 1\n$/,
  "run --service web -- node -e process.exit": /^7 /,
  "orders --app http:PORT": /^0 /,
  "policy explain": /^1 /,
  "control --mesh ADDRESS --enrollment ADDRESS --json, ended": /^0 /,
};

const policy = `apiVersion: hauberk.dev/v1
kind: AuthorizationPolicy
metadata: { name: web-reads-orders }
spec:
  target: { service: orders }
  action: ALLOW
  rules:
    - from: [{ services: [web] }]
      to: [{ methods: [GET], paths: ["/orders/*"] }]
`;

function readyOf(
  child: ChildProcess,
  exited: Promise<number>,
): Promise<{ line: string; ready: Record<string, unknown> }> {
  return new Promise((resolve, reject) => {
    let text = "";
    void exited.then((code) => reject(new Error(`ended with ${code} before it was ready: ${text}`)));
    for (const stream of [child.stdout, child.stderr]) {
      if (stream === null) continue;
      createInterface({ input: stream }).on("line", (line) => {
        text += `${line}\n`;
        if (line.startsWith('{"ready":true')) resolve({ line, ready: JSON.parse(line) as Record<string, unknown> });
      });
    }
  });
}

/** What differs from run to run, made equal, also the order of lists that are sorted by random ids: the rest must be equal by itself. */
function masked(text: string, shop: string): string {
  return text
    .replaceAll(shop, "HOME")
    .replace(/\b127\.0\.0\.1:\d+|https?:\/\/[\d.]+:\d+/g, "ADDRESS")
    .replace(/"(mesh|enrollment|pid|inbound|outbound)":\d+/g, '"$1":N')
    .replace(/\bhttp[:-]\d+|listen\(\d+/g, (found) => found.replace(/\d+/, "PORT"))
    .replace(/\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?Z?/g, "TIME")
    .replace(/\b(?:\d+[dhms] )?\d+(?:ms|[dhms])\b/g, "DURATION")
    .replace(/\b[0-9a-f]{2}(?::[0-9a-f]{2}){7,}\b/gi, "DIGEST")
    .replace(/\b[0-9a-f]{8,}\b/g, "HEX")
    .replace(/[ \t]+/g, " ")
    .replace(/^(?:HEX .*\n){2,}/gm, (rows) => `${rows.trimEnd().split("\n").toSorted().join("\n")}\n`);
}

function differences(one: readonly Step[], other: readonly Step[], names: readonly string[]): string[] {
  const wrong: string[] = [];
  for (let i = 0; i < Math.max(one.length, other.length); i++) {
    const [a, b] = [one[i], other[i]];
    if (JSON.stringify(a) === JSON.stringify(b)) continue;
    wrong.push(`${names[0]}: ${JSON.stringify(a)}\n              ${names[1]}: ${JSON.stringify(b)}`);
  }
  return wrong;
}

/** A Node that is one release too old, and whatever old one is on the PATH. */
function refusals(bin: string): string[] {
  const onPath = withoutNodeModules()
    .map((entry) => join(entry, "node"))
    .filter((node) => existsSync(node))
    .filter((node) => Number(versionOf(node).split(".")[0]) < 24);
  const wrong: string[] = [];
  for (const node of [nodeFromRegistry(versions.refused), ...onPath.slice(0, 1)]) {
    const ran = spawnSync(node, [bin, "--version"], { encoding: "utf8" });
    const said =
      /^error: Cannot start hauberk: this is Node [\d.]+, wanted 24\.17 or later \(NODE_TOO_OLD\)\nhint: Install Node 24 or 26/;
    if (ran.status === 69 && ran.stdout === "" && said.test(ran.stderr))
      console.log(`Node ${versionOf(node)}: refused, with the hint`);
    else wrong.push(`Node ${versionOf(node)} was not refused: ${ran.status} ${ran.stdout}${ran.stderr}`);
  }
  return wrong;
}

try {
  await main();
} finally {
  for (const child of children) child.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
}

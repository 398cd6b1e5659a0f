import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { failures } from "../../src/base/errors.ts";
import type { TokenRow } from "../../src/contract/admin.ts";
import { ask, eventually, Mesh, type Finished, type Started } from "../support/mesh.ts";
import { allow, applyText, freePort, openRoutee, type Routee } from "./routees.ts";

/** DESIGN, section 11. */
const exit = { negative: 1, usage: 2, unavailable: 69 } as const;

/** Something that a person can do wrong, and what is to be heard of it. */
interface Mistake {
  readonly what: string;
  readonly args: readonly string[];
  readonly code: keyof typeof failures;
  readonly exit: number;
  /** What must stand in the sentence: the thing that the person has to look at. */
  readonly names?: string | RegExp;
  readonly around?: Parameters<Mesh["run"]>[1];
}

let mesh: Mesh;
let control: Started;
let orders: Started;
let web: Started;
let routee: Routee;
let scratch: string;

beforeAll(async () => {
  mesh = await Mesh.create();
  control = await mesh.control();
  scratch = mkdtempSync(join(mesh.folder, "scratch-"));
  routee = await openRoutee({ name: "orders" });
  [web, orders] = await Promise.all([
    mesh.sidecar("web"),
    mesh.sidecar("orders", ["--app", `http:${routee.port}`]),
    applyText(mesh, allow("web", "orders")),
  ]);
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

test("every refusal carries a stable code, one sentence and the next step: of enrollment tokens", async () => {
  const expiring = tokenIn(await mesh.token("late", ["--ttl", "1s"]));
  const used = tokenIn(await mesh.token("used"));
  await mesh.run(["run", "--service", "used", "--token-file", used.file, "--", process.execPath, "-e", ""]);
  const revoked = tokenIn(await mesh.token("gone"));
  await mesh.run(["token", "revoke", revoked.id, ...mesh.controlFlag]);
  const good = tokenIn(await mesh.token("late"));
  const [head, claims, signature = ""] = good.text.split(".");
  // One letter in the middle: still canonical base64url, and another signature.
  const other = signature[10] === "A" ? "B" : "A";
  const forged = [head, claims, signature.slice(0, 10) + other + signature.slice(11)].join(".");
  await eventually("the short token has expired", 5_000, async () => {
    const { tokens } = await mesh.json<{ tokens: TokenRow[] }>(["token", "list", ...mesh.controlFlag]);
    return tokens.some((row) => row.id === expiring.id && row.expiresAtMs < Date.now()) ? true : undefined;
  });
  let instances = 0;
  const enroll = (service: string, file: string): readonly string[] => [
    "proxy",
    "--service",
    service,
    "--instance",
    `i${++instances}`,
    "--token-file",
    file,
  ];
  await expectRefusals([
    { what: "an expired token", args: enroll("late", expiring.file), code: "TOKEN_EXPIRED", exit: exit.negative },
    { what: "a revoked token", args: enroll("gone", revoked.file), code: "TOKEN_REVOKED", exit: exit.negative },
    { what: "a used token", args: enroll("used", used.file), code: "TOKEN_ALREADY_USED", exit: exit.negative },
    {
      what: "a forged token",
      args: enroll("late", scratchFile("forged", forged)),
      code: "TOKEN_UNKNOWN",
      exit: exit.negative,
    },
    {
      what: "no token at all in it",
      args: enroll("late", scratchFile("no-token", "hello")),
      code: "TOKEN_MALFORMED",
      exit: exit.negative,
    },
    {
      what: "a token of another service",
      args: enroll("early", good.file),
      code: "USAGE",
      exit: exit.usage,
      names: /sa\/late/,
    },
    {
      what: "a token file that is not there",
      args: enroll("late", "nowhere.token"),
      code: "CONFIG_INVALID",
      exit: exit.usage,
      names: "nowhere.token",
    },
    {
      what: "no token, no identity",
      args: ["proxy", "--service", "late", "--instance", "8"],
      code: "TOKEN_NEEDED",
      exit: exit.usage,
    },
    {
      what: "a token where its id belongs",
      args: ["token", "revoke", good.text, ...mesh.controlFlag],
      code: "USAGE",
      exit: exit.usage,
    },
    {
      what: "an id that nobody has",
      args: ["token", "revoke", "0".repeat(32), ...mesh.controlFlag],
      code: "NOT_FOUND",
      exit: exit.negative,
    },
  ]);
});

test("… of words, flags, paths and files", async () => {
  const policies = join(scratch, "policies");
  mkdirSync(policies);
  writeFileSync(join(policies, "bad.yaml"), `${allow("web", "orders").trim()}\n  mood: bad\n`);
  const unclosed = join(scratch, "unclosed");
  mkdirSync(unclosed);
  writeFileSync(join(unclosed, "p.yaml"), "apiVersion: hauberk.dev/v1\nkind: [AuthorizationPolicy\n");
  const empty = join(scratch, "empty");
  mkdirSync(empty);
  const home = join(scratch, "home");
  mkdirSync(home);
  writeFileSync(join(home, "hauberk.yaml"), "trustDomain: mesh.local\nlifetimes:\n  leef: 1h\n");
  const applied = (folder: string): readonly string[] => ["policy", "apply", folder, ...mesh.controlFlag];
  await expectRefusals([
    { what: "no such command", args: ["contol"], code: "USAGE", exit: exit.usage, names: "contol" },
    { what: "half a command", args: ["policy"], code: "USAGE", exit: exit.usage, names: "apply" },
    { what: "no such flag", args: ["services", "--colour"], code: "USAGE", exit: exit.usage, names: "--colour" },
    {
      what: "a flag without its value",
      args: ["token", "create", "--service"],
      code: "USAGE",
      exit: exit.usage,
      names: "--service",
    },
    {
      what: "a port that is none",
      args: ["proxy", "--service", "web", "--app", "http:99999"],
      code: "USAGE",
      exit: exit.usage,
      names: "99999",
    },
    {
      what: "a service that is no label",
      args: ["proxy", "--service", "No_Label"],
      code: "USAGE",
      exit: exit.usage,
      names: "No_Label",
    },
    { what: "no program after --", args: ["run", "--service", "web"], code: "USAGE", exit: exit.usage },
    {
      what: "a policy folder that is not there",
      args: applied("nowhere"),
      code: "USAGE",
      exit: exit.usage,
      names: "nowhere",
    },
    {
      what: "an empty policy folder",
      args: applied(empty),
      code: "POLICY_SET_EMPTY",
      exit: exit.negative,
      names: "empty",
    },
    {
      what: "an unknown key in a policy",
      args: applied(policies),
      code: "POLICY_INVALID",
      exit: exit.negative,
      names: /bad\.yaml:9:3/,
    },
    {
      what: "a policy that is no YAML",
      args: applied(unclosed),
      code: "POLICY_INVALID",
      exit: exit.negative,
      names: /p\.yaml:\d+:\d+/,
    },
    {
      what: "an unknown key in hauberk.yaml",
      args: ["control", "--home", home],
      code: "CONFIG_INVALID",
      exit: exit.usage,
      names: /hauberk\.yaml:3:3/,
    },
    {
      what: "a certificate that is not there",
      args: ["certs", "inspect", "nowhere.pem"],
      code: "USAGE",
      exit: exit.usage,
      names: "nowhere.pem",
    },
    { what: "no mesh home", args: ["control"], code: "HOME_MISSING", exit: exit.usage, around: { cwd: "/" } },
    { what: "a mesh home that is there already", args: ["init", mesh.home], code: "HOME_EXISTS", exit: exit.usage },
    {
      what: "an option out of its range",
      args: ["proxy", "--service", "web"],
      code: "CONFIG_INVALID",
      exit: exit.usage,
      names: "askMs",
      around: { environment: { HAUBERK_ASK_MS: "soon" } },
    },
  ]);
});

test("… of this machine: locks, ports, passphrases, programs", async () => {
  const taken = await freePort();
  const holder = createServer().listen(taken, "127.0.0.1");
  const noPassphrase = { XDG_STATE_HOME: join(scratch, "elsewhere") };
  const wrong = scratchFile("wrong.passphrase", "wrong");
  // Copies: one folder is one process's, and these are asked about at the same time.
  const state = join(mesh.home, "certs", "used", "1");
  let copies = 0;
  const copyOf = (folder: string): string => {
    const copy = join(scratch, `copy-${++copies}`);
    cpSync(folder, copy, { recursive: true, filter: (source) => !source.endsWith(".sock") });
    return copy;
  };
  const listens = (...flags: string[]): readonly string[] => [
    "control",
    "--home",
    copyOf(mesh.home),
    "--enrollment",
    "127.0.0.1:0",
    ...flags,
  ];
  try {
    await expectRefusals([
      { what: "a second control plane", args: ["control"], code: "STATE_LOCKED", exit: exit.unavailable },
      {
        what: "a state folder in use",
        args: ["proxy", "--service", "web"],
        code: "STATE_LOCKED",
        exit: exit.unavailable,
        names: String(web.pid),
      },
      {
        what: "another service's state",
        args: ["proxy", "--service", "shop", "--state", copyOf(state)],
        code: "USAGE",
        exit: exit.usage,
        names: /sa\/used/,
      },
      {
        what: "a taken port of a sidecar",
        args: ["proxy", "--service", "used", "--state", copyOf(state), "--outbound-port", String(taken)],
        code: "PORT_TAKEN",
        exit: exit.unavailable,
        names: String(taken),
      },
      {
        what: "a taken port of the control plane",
        args: listens("--mesh", `127.0.0.1:${taken}`),
        code: "PORT_TAKEN",
        exit: exit.unavailable,
        names: String(taken),
      },
      {
        what: "no passphrase",
        args: listens(),
        code: "PASSPHRASE_MISSING",
        exit: exit.usage,
        around: { environment: noPassphrase },
      },
      {
        what: "a wrong passphrase",
        args: listens("--passphrase-file", wrong),
        code: "PASSPHRASE_WRONG",
        exit: exit.negative,
        names: wrong,
      },
      {
        what: "an administrator without an SVID",
        args: ["services", "--admin", "nobody", ...mesh.controlFlag],
        code: "NOT_AN_ADMINISTRATOR",
        exit: exit.negative,
        names: "admin",
      },
      {
        what: "a program that is not there",
        args: ["run", "--service", "used", "--state", copyOf(state), "--", "no-such-program"],
        code: "USAGE",
        exit: exit.usage,
        names: "no-such-program",
      },
    ]);
  } finally {
    holder.close();
  }
});

test("… of a program that answers on the network too, wherever this machine has a network", async (context) => {
  const outside = Object.values(networkInterfaces())
    .flat()
    .some((entry) => entry !== undefined && !entry.internal);
  context.skip(!outside, "this machine has no network interface beside loopback");
  const exposed = await openRoutee({ host: "0.0.0.0" });
  try {
    await expectRefusals([
      {
        what: "an exposed program",
        args: ["proxy", "--service", "used", "--app", `http:${exposed.port}`],
        code: "APP_PORT_EXPOSED",
        exit: exit.negative,
        names: String(exposed.port),
      },
    ]);
  } finally {
    await exposed.close();
  }
});

test("… of calls, in a header and as JSON, and so that a terminal shows why", async () => {
  const port = Number(web.ready["outbound"]);
  await eventually("web may call orders", 5_000, async () =>
    (await ask({ port, host: "orders", path: "/" })).status === 200 ? true : undefined,
  );
  for (const [host, path, status, code] of [
    ["nobody", "/", 404, "SERVICE_UNKNOWN"],
    ["www.example.com", "/", 421, "NOT_IN_MESH"],
    ["orders", "/%2e%2e/%2e%2e", 400, "REQUEST_INVALID"],
  ] as const) {
    const answer = await ask({ port, host, path });
    expect([host, answer.status, answer.headers["x-hauberk-code"]]).toEqual([host, status, code]);
    const body = JSON.parse(answer.body) as Record<string, string>;
    expectRefusal(host, body, code);
    expect(body["requestId"]).toMatch(/\S/);
  }
  // The control plane's own API says it in the same form.
  const listener = await mesh.run(["services", "--control", `https://127.0.0.1:${mesh.ports.enrollment}`, "--json"]);
  expectRefusal("the wrong listener", readRefusal(listener), undefined);
});

test("… of a control plane that is not there", async () => {
  const waiting = tokenIn(await mesh.token("waiting"));
  await control.kill("SIGKILL");
  const impatient = { environment: { HAUBERK_ENROLL_WAIT_MS: "0" } };
  await expectRefusals([
    {
      what: "a question",
      args: ["services", ...mesh.controlFlag],
      code: "UNAVAILABLE",
      exit: exit.unavailable,
      names: String(mesh.ports.mesh),
    },
    {
      what: "an enrollment",
      args: ["proxy", "--service", "waiting", "--token-file", waiting.file],
      code: "CONTROL_UNREACHABLE",
      exit: exit.unavailable,
      around: impatient,
    },
  ]);
  expect([web.child.exitCode, orders.child.exitCode]).toEqual([null, null]);
});

/** Three at a time; each as JSON, and every third as a person sees it too. */
async function expectRefusals(mistakes: readonly Mistake[]): Promise<void> {
  const waiting = [...mistakes.entries()];
  const worker = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const [index, mistake] = next;
      await expectAsJson(mistake);
      if (index % 3 === 0) await expectAsText(mistake);
    }
  };
  await Promise.all([worker(), worker(), worker()]);
}

async function expectAsJson({ what, args, code, exit: wanted, names, around }: Mistake): Promise<void> {
  const end = args.indexOf("--");
  const json = end < 0 ? [...args, "--json"] : [...args.slice(0, end), "--json", ...args.slice(end)];
  const asJson = await mesh.run(json, around);
  const refusal = readRefusal(asJson);
  expectRefusal(what, refusal, code);
  if (names !== undefined) expect(refusal["message"], what).toMatch(names);
  expect(`${what}: ${asJson.code}`).toBe(`${what}: ${wanted}`);
}

async function expectAsText({ what, args, code, exit: wanted, around }: Mistake): Promise<void> {
  const asText = await mesh.run(args, around);
  expect(`${what}: ${asText.code}`).toBe(`${what}: ${wanted}`);
  const lines = asText.err.split("\n").filter((line) => /^(error|hint): /.test(line));
  expect(lines, what).toHaveLength(2);
  expect(lines[0], what).toMatch(new RegExp(`^error: Cannot .*[^.] \\(${code}\\)$`));
  expect(lines[1], what).toMatch(/^hint: \S/);
  expect(asText.err, what).not.toMatch(/\n\s+at /);
}

/** The last line that is a refusal: log lines may stand before it. */
function readRefusal(done: Finished): Record<string, string> {
  const lines = done.err.trim().split("\n").toReversed();
  for (const line of lines) {
    try {
      const value = JSON.parse(line) as Record<string, string>;
      if (value["code"] !== undefined && value["hint"] !== undefined && value["level"] === undefined) return value;
    } catch {
      continue; // Not JSON.
    }
  }
  throw new Error(`no refusal as JSON, exit ${done.code}: ${done.err}${done.out}`);
}

function expectRefusal(what: string, refusal: Record<string, string>, code: string | undefined): void {
  const { message = "", hint = "" } = refusal;
  if (code !== undefined) expect(`${what}: ${refusal["code"]} ${message}`).toContain(`${what}: ${code} `);
  expect(failures, what).toHaveProperty(String(refusal["code"]));
  expect(message, what).toMatch(/^Cannot \S.*[^.]$/s);
  // The next step is in the imperative, so it starts with a verb, and does not repeat the sentence.
  expect(hint, what).toMatch(/^[A-Z][a-z]+ /);
  expect(hint, what).not.toBe(message);
}

function tokenIn(file: string): { file: string; text: string; id: string } {
  const text = readFileSync(file, "utf8").trim();
  const claims = JSON.parse(Buffer.from(text.split(".")[1] ?? "", "base64url").toString("utf8")) as { jti: string };
  return { file, text, id: claims.jti };
}

function scratchFile(name: string, text: string): string {
  const file = join(scratch, name);
  rmSync(file, { force: true });
  writeFileSync(file, `${text}\n`);
  return file;
}

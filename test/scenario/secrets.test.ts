import { generateKeyPairSync, sign } from "node:crypto";
import { cpSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ask, eventually, Mesh, metricsOf, sumOf, type Started } from "../support/mesh.ts";
import { allow, applyText, exportIdentity, hear, openRoutee, speakTls, type Routee } from "./routees.ts";

let mesh: Mesh;
let routee: Routee;
/** Everything that control plane, sidecars and commands said, by who said it. */
const said = new Map<string, string>();
/** Everything that must not be in it, by what it is. */
const secrets = new Map<string, string>();
const running = new Map<string, Started>();

beforeAll(async () => {
  mesh = await Mesh.create({ config: "lifetimes: { leaf: 6s, allowSeconds: true }" });
  routee = await openRoutee({ name: "orders" });
  keep("control", await mesh.control({}, ["--log-level", "debug"]));
});

afterAll(async () => {
  await mesh.end();
  await routee.close();
});

test("no log and no command says a token, a private key, a passphrase, a proxy secret or a JWT, at --log-level debug", async () => {
  const tokens = await enrollEverybody();
  await refuseWhatCan(tokens);
  await renewEverything();
  await callWithSecrets();
  for (const [who, started] of [...running].toReversed()) {
    await started.kill("SIGTERM");
    said.set(who, started.output());
  }
  collectFiles();

  for (const kind of ["token", "private key", "passphrase", "proxy secret", "JWT"]) {
    expect(
      [...secrets.keys()].some((name) => name.startsWith(kind)),
      `no ${kind} was looked for`,
    ).toBe(true);
  }
  // Enough was said for the search to mean something, and what was to happen was said to have happened.
  expect(said.get("web")).toContain("PROXY_SECRET_WRONG");
  expect(said.get("web")).toContain("the certificate was renewed");
  expect(said.get("control")).toContain('"level":"debug"');
  expect([...said.values()].join("\n")).toMatch(/TOKEN_ALREADY_USED/);
  const found: string[] = [];
  for (const [who, text] of said) {
    for (const [what, secret] of secrets) if (text.includes(secret)) found.push(`${who} said the ${what}`);
    if (/PRIVATE KEY/.test(text)) found.push(`${who} said a PEM key`);
    if (/\beyJ[\w-]{8,}\.[\w-]{8,}/.test(text)) found.push(`${who} said a JWS`);
  }
  expect(found).toEqual([]);
});

async function enrollEverybody(): Promise<Map<string, string>> {
  const tokens = new Map<string, string>();
  for (const service of ["web", "orders", "spare"]) {
    const file = join(mesh.folder, `${service}.token`);
    await command("token create", ["token", "create", "--service", service, "--out", file]);
    tokens.set(service, file);
    hide(`token of ${service}`, readFileSync(file, "utf8").trim());
  }
  const debug = ["--log-level", "debug", "--access-log", "--inbound-host", "127.0.0.1"];
  const told = join(mesh.folder, "told.json");
  const program = `require("node:fs").writeFileSync(${JSON.stringify(told)}, process.env.http_proxy); setInterval(() => {}, 1000);`;
  keep(
    "orders",
    await mesh.start([
      "proxy",
      "--service",
      "orders",
      "--app",
      `http:${routee.port}`,
      "--token-file",
      tokens.get("orders") ?? "",
      ...debug,
    ]),
  );
  keep(
    "web",
    await mesh.start(["run", "--service", "web", ...debug], {
      environment: { HAUBERK_TOKEN: readFileSync(tokens.get("web") ?? "", "utf8").trim() },
      program: [process.execPath, "-e", program],
    }),
  );
  const proxy = await eventually("the program told its proxy", 5_000, () => {
    try {
      return /hauberk:([^@]+)@/.exec(readFileSync(told, "utf8"))?.[1];
    } catch {
      return undefined;
    }
  });
  hide("proxy secret", proxy);
  hide("proxy secret in Proxy-Authorization", Buffer.from(`hauberk:${proxy}`).toString("base64"));
  await applyText(mesh, allow("web", "orders"));
  return tokens;
}

/** Refusals quote what they refuse: here lies most of the danger. */
async function refuseWhatCan(tokens: ReadonlyMap<string, string>): Promise<void> {
  const again = ["--instance", "9", "--log-level", "debug", "--token-file"];
  await command("a used token", ["proxy", "--service", "web", ...again, tokens.get("web") ?? ""], 1);
  await command("a token of another service", ["proxy", "--service", "web", ...again, tokens.get("spare") ?? ""], 2);
  const broken = join(mesh.folder, "broken.token");
  writeFileSync(
    broken,
    readFileSync(tokens.get("spare") ?? "", "utf8")
      .trim()
      .slice(0, -9),
  );
  await command("a broken token", ["proxy", "--service", "spare", ...again, broken], 1);
  // A secret where a word belongs: given by mistake, and not repeated.
  const spare = readFileSync(tokens.get("spare") ?? "", "utf8").trim();
  await command("a token as a path", ["proxy", "--service", "spare", ...again, spare], 2);
  await command("a token as a word", ["proxy", "--service", "spare", spare], 2);
  await command("a token as an id", ["token", "revoke", spare], 2);
  const copy = join(mesh.folder, "copy");
  cpSync(join(mesh.home, "hauberk.yaml"), join(copy, "hauberk.yaml"));
  cpSync(join(mesh.home, "ca"), join(copy, "ca"), { recursive: true });
  const wrong = join(mesh.folder, "wrong.passphrase");
  writeFileSync(wrong, "the-wrong-passphrase\n");
  hide("passphrase that is wrong", "the-wrong-passphrase");
  await command("a wrong passphrase", ["control", "--home", copy, "--passphrase-file", wrong], 1);
  await command("check", ["check"], "any");
  await command("export", [
    "certs",
    "export",
    join(mesh.home, "certs", "web", "1"),
    "--out",
    join(mesh.folder, "web.p12"),
    "--format",
    "p12",
  ]);
  hide("passphrase of the export", readFileSync(join(mesh.folder, "web.p12.password"), "utf8").trim());
}

async function renewEverything(): Promise<void> {
  await eventually("both sidecars renewed", 15_000, async () => {
    const metrics = await Promise.all(["web", "orders"].map((who) => metricsOf(running.get(who) as Started)));
    return metrics.every((seen) => sumOf(seen, "hauberk_certificate_renewals_total") > 0) ? true : undefined;
  });
}

/** Requests that carry secrets of their own, allowed and refused, past both sidecars and their access logs. */
async function callWithSecrets(): Promise<void> {
  const jwt = makeJwt();
  hide("JWT", jwt);
  hide("JWT's signature", jwt.slice(jwt.lastIndexOf(".") + 1));
  const port = Number(running.get("web")?.ready["outbound"]);
  const basic = `Basic ${Buffer.from(`hauberk:${secrets.get("proxy secret")}`).toString("base64")}`;
  const headers = {
    authorization: `Bearer ${jwt}`,
    cookie: "session=the-secret-session",
    "proxy-authorization": basic,
  };
  hide("JWT's companion, a cookie", "the-secret-session");
  await eventually("web calls orders", 5_000, async () =>
    (await ask({ port, host: "orders", path: "/", headers })).status === 200 ? true : undefined,
  );
  await ask({ port, host: "nobody", path: "/", headers });
  await ask({
    port,
    host: "orders",
    path: "/",
    headers: { ...headers, "proxy-authorization": "Basic the-wrong-secret" },
  });
  hide("proxy secret that is wrong", "the-wrong-secret");
  // No TLS at all, with a secret in it: what a parser could not read is easily quoted.
  const plain = connect(mesh.ports.enrollment, "127.0.0.1");
  await hear(plain, `POST /v1/enroll HTTP/1.1\r\nAuthorization: Bearer ${jwt}\r\n\r\n`);
  const identity = await exportIdentity(mesh, "web");
  const text = `GET / HTTP/1.1\r\nHost: orders\r\nAuthorization: Bearer ${jwt}\r\nX: \u0001\r\n\r\n`;
  await speakTls({ port: Number(running.get("orders")?.ready["inbound"]), identity }, text);
}

/** What lies on disk as a secret: every key of every process, and the passphrases of the CA. */
function collectFiles(): void {
  for (const file of filesBelow(mesh.folder)) {
    const text = readFileSync(file, "latin1");
    for (const [, body = ""] of text.matchAll(/-----BEGIN [A-Z ]*PRIVATE KEY-----([\s\S]+?)-----END/g)) {
      // The lines of a PEM, also where they stand in JSON; the first ones say only which algorithm it is.
      const lines = body.split(/\\n|\n/).filter((line) => line.length >= 16);
      hide(`private key in ${file}`, lines.at(-1) ?? "");
    }
    if (file.endsWith(".passphrase") && file.includes("passphrases")) hide(`passphrase in ${file}`, text.trim());
  }
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

function keep(who: string, started: Started): void {
  running.set(who, started);
}

function hide(what: string, secret: string): void {
  if (secret.length < 12) throw new Error(`the ${what} is too short to be looked for: "${secret}"`);
  secrets.set(what, secret);
}

async function command(what: string, args: readonly string[], code: number | "any" = 0): Promise<void> {
  const administers = ["token", "check"].includes(args[0] ?? "");
  const done = await mesh.run([...args, ...(administers ? mesh.controlFlag : [])]);
  if (code !== "any") expect(`${what}: ${done.code} ${done.err}${done.out}`).toMatch(new RegExp(`^${what}: ${code} `));
  said.set(what, done.out + done.err);
}

function makeJwt(): string {
  const { privateKey: key } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part({ alg: "ES256", typ: "JWT" })}.${part({ iss: "https://corp.example", sub: "ann" })}`;
  return `${text}.${sign("sha256", Buffer.from(text), { key, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
}

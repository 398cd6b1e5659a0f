import { createPrivateKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { PeerCertificate } from "node:tls";
import { Agent, request } from "undici";
import { failures, HauberkError, isRefusal, messageOf, type FailureCode } from "../base/errors.ts";
import { controlId } from "../base/spiffe-id.ts";
import type { AdminRenewed } from "../contract/admin.ts";
import { makeFolder } from "../identity/make-folder.ts";
import { readCertificate, type Certificate } from "../x509/certificate.ts";
import { writeCsr } from "../x509/csr.ts";
import { fromPem, toPem } from "../x509/pem.ts";
import type { Input } from "./command.ts";
import { readConfig } from "./config.ts";
import { controlUrl } from "./control-address.ts";
import { requireHome, type Home } from "./home.ts";
import { systemClock } from "./system.ts";
import { writeWhole } from "./write-whole.ts";

/** Answers are bounded: a page of the largest list is far below. */
const answerMaxBytes = 16 * 1024 * 1024;

const listRowsMax = 100_000;

/** An administrator's SVID of this machine. */
interface AdminIdentity {
  readonly name: string;
  readonly file: string;
  readonly chainPem: string;
  readonly key: KeyObject;
  readonly leaf: Certificate;
  readonly rootsPem: string;
}

/** Calls the mesh API as an administrator; the SVID is renewed when it is used past half of its life. */
export class AdminClient {
  readonly #url: string;
  readonly #trustDomain: string;
  readonly #name: string;
  #agent: Agent;

  private constructor(url: string, trustDomain: string, identity: AdminIdentity) {
    this.#url = url;
    this.#trustDomain = trustDomain;
    this.#name = identity.name;
    this.#agent = this.#agentOf(identity);
  }

  /** From the flags --home, --admin and --control. */
  static async open(input: Input): Promise<AdminClient> {
    const home = requireHome(input.cwd, input.flag("home") ?? input.environment["HAUBERK_HOME"]);
    const config = readConfig(home.configFile);
    const url = input.flag("control") ?? controlUrl(home, config);
    if (!URL.canParse(url) || !url.startsWith("https://")) {
      throw new HauberkError("USAGE", `Cannot use --control ${url}: it is no https URL`, "Write https://HOST:7443");
    }
    const identity = readAdmin(home, input.flag("admin"));
    const client = new AdminClient(url.replace(/\/$/, ""), config.trustDomain, identity);
    await client.#renewIfHalfOver(identity);
    return client;
  }

  /** Does `work` with a client of its own, and closes it. */
  static async use<T>(input: Input, work: (client: AdminClient) => Promise<T>): Promise<T> {
    const client = await AdminClient.open(input);
    try {
      return await work(client);
    } finally {
      await client.close();
    }
  }

  /** @throws HauberkError the refusal that the control plane gave, or UNAVAILABLE where it cannot be reached. */
  async call<T>(method: "GET" | "POST" | "PUT" | "DELETE", path: string, body?: unknown): Promise<T> {
    let status: number;
    let text: string;
    try {
      const answer = await request(`${this.#url}${path}`, {
        method,
        dispatcher: this.#agent,
        headersTimeout: 15_000,
        bodyTimeout: 15_000,
        ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
      });
      status = answer.statusCode;
      text = await answer.body.text();
    } catch (thrown) {
      throw unreachable(this.#url, thrown);
    }
    if (status >= 200 && status < 300) return (text === "" ? undefined : JSON.parse(text)) as T;
    throw refusalOf(status, text, this.#name);
  }

  /** Every row of a list, page after page, up to a bound that no terminal wants to show. */
  async list<R>(path: string, rowsOf: (page: never) => readonly R[]): Promise<R[]> {
    const rows: R[] = [];
    for (let after: string | number | null = ""; after !== null && rows.length < listRowsMax;) {
      const query = `limit=500${after === "" ? "" : `&after=${encodeURIComponent(after)}`}`;
      const page: { readonly next: string | number | null } = await this.call(
        "GET",
        `${path}${path.includes("?") ? "&" : "?"}${query}`,
      );
      rows.push(...rowsOf(page as never));
      after = page.next;
    }
    return rows;
  }

  async close(): Promise<void> {
    await this.#agent.close();
  }

  #agentOf(identity: AdminIdentity): Agent {
    const wanted = controlId(this.#trustDomain);
    return new Agent({
      allowH2: false,
      maxResponseSize: answerMaxBytes,
      connect: {
        cert: identity.chainPem,
        key: identity.key.export({ type: "pkcs8", format: "pem" }),
        ca: identity.rootsPem,
        minVersion: "TLSv1.3",
        timeout: 5_000,
        // The control plane is known by its SPIFFE ID, never by a host name.
        checkServerIdentity: (_host: string, presented: PeerCertificate) => proveControl(presented, wanted),
      },
    });
  }

  async #renewIfHalfOver(identity: AdminIdentity): Promise<void> {
    const { leaf } = identity;
    if (systemClock.wallMs() < leaf.notBeforeMs + (leaf.notAfterMs - leaf.notBeforeMs) / 2) return;
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const renewed = await this.call<AdminRenewed>("POST", "/v1/admins", {
      csr: writeCsr(privateKey).toString("base64"),
    });
    const home = join(identity.file, "..");
    writeAdmin(home, identity.name, { key: privateKey, chain: renewed.chain, roots: renewed.roots });
    await this.#agent.close();
    this.#agent = this.#agentOf(readAdminFile(home, identity.name));
  }
}

function proveControl(presented: PeerCertificate, wanted: string): Error | undefined {
  const certificate = readCertificate(presented.raw);
  if (isRefusal(certificate)) return new Error(certificate.message);
  const [uri, ...more] = certificate.uris;
  return uri === wanted && more.length === 0 ? undefined : new Error(`the peer is ${uri ?? "nobody"}, not ${wanted}`);
}

function unreachable(url: string, thrown: unknown): HauberkError {
  const cause = (thrown as { cause?: { code?: string } }).cause?.code ?? (thrown as { code?: string }).code;
  const why = reasonOf(cause) ?? messageOf(thrown).trim();
  return new HauberkError(
    "UNAVAILABLE",
    `Cannot reach the control plane at ${url}: ${why}`,
    "Start it with hauberk control, or name another with --control URL",
    thrown,
  );
}

function reasonOf(cause: string | undefined): string | undefined {
  if (cause === "ECONNREFUSED") return "nothing listens there";
  if (cause === "EPROTO" || cause?.startsWith("ERR_SSL_") === true)
    return "what listens there does not speak TLS as a control plane does";
  return cause !== undefined && foreign.has(cause)
    ? "what listens there has no certificate of this mesh's CA; it may be another mesh's"
    : undefined;
}

/** What OpenSSL says of a certificate that none of our roots stands behind. */
const foreign: ReadonlySet<string> = new Set([
  "SELF_SIGNED_CERT_IN_CHAIN",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
  "CERT_SIGNATURE_FAILURE",
]);

function refusalOf(status: number, text: string, admin: string): HauberkError {
  try {
    const { code, message, hint } = JSON.parse(text) as Record<string, unknown>;
    // The hint that came is for a workload: an administrator cannot enroll.
    if (code === "LEAF_UNKNOWN")
      return new HauberkError(
        code,
        String(message),
        `Run hauberk admin issue ${admin} on the machine with the mesh home`,
      );
    if (typeof code === "string" && code in failures)
      return new HauberkError(code as FailureCode, String(message), String(hint));
  } catch {
    // No answer of a control plane's: told below as what it is.
  }
  return new HauberkError(
    "UNAVAILABLE",
    `Cannot use the answer: status ${status} without a code`,
    "Check that --control names a Hauberk control plane of this release",
  );
}

/** `certs/admin/NAME.pem` holds chain and key, `roots.pem` the bundle: both 0600, replaced whole. */
export function writeAdmin(
  folder: string,
  name: string,
  made: { key: KeyObject; chain: readonly string[]; roots: readonly string[] },
): string {
  makeFolder(folder, { mode: 0o700 });
  const file = join(folder, `${name}.pem`);
  const chain = made.chain.map((der) => toPem("CERTIFICATE", Buffer.from(der, "base64"))).join("");
  writeWhole(
    join(folder, "roots.pem"),
    made.roots.map((der) => toPem("CERTIFICATE", Buffer.from(der, "base64"))).join(""),
  );
  writeWhole(file, chain + made.key.export({ type: "pkcs8", format: "pem" }));
  return file;
}

function readAdmin(home: Home, named: string | undefined): AdminIdentity {
  const folder = join(home.certs, "admin");
  const names = existsSync(folder)
    ? readdirSync(folder).filter((name) => name.endsWith(".pem") && name !== "roots.pem")
    : [];
  const known = names.map((name) => name.slice(0, -".pem".length));
  const name = named ?? (known.length === 1 ? known[0] : "admin");
  if (name === undefined || !known.includes(name)) {
    throw new HauberkError(
      "NOT_AN_ADMINISTRATOR",
      `Cannot act as an administrator: ${folder} holds ${known.length === 0 ? "no SVID" : `only ${known.join(", ")}`}`,
      "Run hauberk admin issue NAME on the control plane's machine, or name one of them with --admin",
    );
  }
  return readAdminFile(folder, name);
}

function readAdminFile(folder: string, name: string): AdminIdentity {
  const file = join(folder, `${name}.pem`);
  const text = readFileSync(file, "utf8");
  const blocks = fromPem(text);
  const first = isRefusal(blocks) ? undefined : blocks.find((block) => block.label === "CERTIFICATE");
  const leaf = first === undefined ? undefined : readCertificate(first.der);
  if (leaf === undefined || isRefusal(leaf)) {
    throw new HauberkError(
      "STATE_DAMAGED",
      `Cannot use ${file}: it holds no readable certificate`,
      "Run hauberk admin issue NAME again on the control plane's machine",
    );
  }
  const keyAt = text.indexOf("-----BEGIN PRIVATE KEY-----");
  if (keyAt < 0) {
    throw new HauberkError(
      "STATE_DAMAGED",
      `Cannot use ${file}: it holds no private key`,
      "Run hauberk admin issue NAME again on the control plane's machine",
    );
  }
  return {
    name,
    file,
    leaf,
    chainPem: text.slice(0, keyAt),
    key: createPrivateKey(text.slice(keyAt)),
    rootsPem: readFileSync(join(folder, "roots.pem"), "utf8"),
  };
}

import { verify, createPublicKey } from "node:crypto";
import { createServer, type Server } from "node:https";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { TLSSocket } from "node:tls";
import type { Clock } from "../../src/base/clock.ts";
import { HauberkError, isRefusal, refuse, type FailureCode } from "../../src/base/errors.ts";
import { recoveryStatement, type IssuedAnswer } from "../../src/contract/enrollment.ts";
import { fingerprintOf, type Certificate } from "../../src/x509/certificate.ts";
import { readCsr } from "../../src/x509/csr.ts";
import { signCompact } from "../../src/x509/jws.ts";
import { generateKey } from "../../src/x509/keys.ts";
import { serialFrom, signLeaf } from "../../src/x509/leaf.ts";
import { toPem } from "../../src/x509/pem.ts";
import type { TlsIdentity } from "../../src/x509/tls-identity.ts";
import type { TestPki } from "./pki.ts";
import { SeededRandom } from "./seeded-random.ts";

/**
 * A control plane for tests of the sidecar's side: real TLS, real certificates, no store; it can be told to lie.
 * What it was asked is in `asked`, bodies included.
 */
export interface Asked {
  readonly path: string;
  readonly body: string;
  readonly clientSerial: string | undefined;
}

export interface FakeControlWish {
  readonly pki: TestPki;
  readonly clock: Clock;
  readonly id?: string;
  readonly lifetimeMs?: number;
  /** What it shows in TLS instead of the control plane's own identity. */
  readonly shows?: TlsIdentity;
  /** What `/v1/roots` gives instead of the root. */
  readonly rootsShown?: readonly Certificate[];
}

const hourMs = 3_600_000;

export class FakeControl {
  readonly asked: Asked[] = [];
  readonly issuedSerials: string[] = [];
  /** Path to what is answered instead: a refusal, or "drop" for a connection that just ends. */
  readonly refusals = new Map<string, FailureCode | "drop">();
  /** Whom it issues for. */
  id: string;
  /** Who signs, and whose root it answers with; the own authority by default. */
  signs: TestPki;
  lifetimeMs: number;
  /** Changes an answer before it is sent. */
  spoil: (answer: IssuedAnswer) => IssuedAnswer = (answer) => answer;
  /** What happens with a watch; refused by default. */
  watch: (request: IncomingMessage, response: ServerResponse) => void = (_request, response) =>
    response.writeHead(404).end();
  readonly #wish: FakeControlWish;
  readonly #servers: Server[] = [];
  readonly #random = new SeededRandom(99);
  readonly #tokenKey = generateKey();
  #recoveryKey: Buffer | undefined;
  #ports = { mesh: 0, enrollment: 0 };

  private constructor(wish: FakeControlWish) {
    this.#wish = wish;
    this.id = wish.id ?? "spiffe://mesh.local/ns/default/sa/orders";
    this.signs = wish.pki;
    this.lifetimeMs = wish.lifetimeMs ?? 24 * hourMs;
  }

  static async start(wish: FakeControlWish): Promise<FakeControl> {
    const fake = new FakeControl(wish);
    await fake.listen();
    return fake;
  }

  /** Listens, at the ports of the last time where there was one. */
  async listen(): Promise<void> {
    const shows =
      this.#wish.shows ??
      this.#wish.pki.issue("spiffe://mesh.local/hauberk/control", {
        notBeforeMs: Date.now() - 2 * hourMs,
        notAfterMs: this.#wish.clock.wallMs() + 30 * 24 * hourMs,
      });
    this.#ports = {
      mesh: await this.#serve(shows, true, this.#ports.mesh),
      enrollment: await this.#serve(shows, false, this.#ports.enrollment),
    };
  }

  async end(): Promise<void> {
    for (const server of this.#servers.splice(0)) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  get meshUrl(): string {
    return `https://127.0.0.1:${this.#ports.mesh}`;
  }

  get enrollmentUrl(): string {
    return `https://127.0.0.1:${this.#ports.enrollment}`;
  }

  token(change: Record<string, unknown> = {}): string {
    const exp = Math.floor(this.#wish.clock.wallMs() / 1_000) + 600;
    const roots = [fingerprintOf(this.#wish.pki.root.der)];
    const claims = {
      jti: "t1",
      urls: [this.enrollmentUrl],
      roots,
      trustDomain: "mesh.local",
      sub: this.id,
      exp,
      ...change,
    };
    return signCompact(claims, this.#tokenKey);
  }

  paths(): string[] {
    return this.asked.map(({ path }) => path);
  }

  #serve(shows: TlsIdentity, wantsClient: boolean, port: number): Promise<number> {
    const { root } = this.#wish.pki;
    const server = createServer(
      {
        key: shows.key.export({ type: "pkcs8", format: "pem" }),
        cert: shows.chain.map((certificate) => toPem("CERTIFICATE", certificate.der)).join(""),
        ca: toPem("CERTIFICATE", root.der),
        minVersion: "TLSv1.3",
        requestCert: wantsClient,
        rejectUnauthorized: wantsClient,
      },
      (request, response) => this.#answer(request, response),
    );
    this.#servers.push(server);
    server.on("tlsClientError", () => undefined);
    return new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen(port, "127.0.0.1", () => resolve((server.address() as AddressInfo).port));
    });
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const path = request.url ?? "";
    const clientSerial = (request.socket as TLSSocket).getPeerX509Certificate()?.serialNumber;
    if (path === "/v1/watch") {
      this.asked.push({ path, body: "", clientSerial });
      this.watch(request, response);
      return;
    }
    let body = "";
    request.on("data", (chunk: Buffer) => (body += chunk.toString("utf8")));
    request.once("end", () => {
      this.asked.push({ path, body, clientSerial });
      this.#reply({ path, body }, response);
    });
  }

  #reply(asked: { path: string; body: string }, response: ServerResponse): void {
    const told = this.refusals.get(asked.path);
    if (told === "drop") {
      response.destroy();
      return;
    }
    const { status, value } =
      told === undefined
        ? this.#valueFor(asked)
        : { status: 403, value: refuse(told, "Cannot: told so", "Do otherwise") };
    const text = JSON.stringify(
      isRefusal(value) ? { code: value.code, message: value.message, hint: value.hint } : value,
    );
    response.writeHead(status, { "content-type": "application/json" }).end(text);
  }

  #valueFor({ path, body }: { path: string; body: string }): { status: number; value: unknown } {
    const roots = (this.#wish.rootsShown ?? [this.#wish.pki.root]).map((root) => root.der.toString("base64"));
    const parsed = (body === "" ? {} : JSON.parse(body)) as Record<string, string>;
    switch (path) {
      case "/v1/roots":
        return { status: 200, value: { trustDomain: "mesh.local", roots } };
      case "/v1/enroll":
        this.#recoveryKey = Buffer.from(parsed["recoveryKey"] ?? "", "base64");
        return { status: 200, value: this.#issue(parsed["csr"] ?? "") };
      case "/v1/renew":
        return { status: 200, value: this.#issue(parsed["csr"] ?? "") };
      case "/v1/recover/challenge":
        return { status: 200, value: { challenge: "challenge-1" } };
      case "/v1/recover":
        return this.#recovered(parsed);
      default:
        return { status: 404, value: refuse("NOT_FOUND", "Cannot find it", "Look") };
    }
  }

  #recovered(parsed: Record<string, string>): { status: number; value: unknown } {
    const key = createPublicKey({ key: this.#recoveryKey ?? Buffer.alloc(0), format: "der", type: "spki" });
    const statement = recoveryStatement("challenge-1", parsed["csr"] ?? "");
    const right = verify("sha256", statement, key, Buffer.from(parsed["signature"] ?? "", "base64"));
    if (!right || parsed["instance"] !== "i1")
      return { status: 403, value: refuse("RECOVERY_REFUSED", "Cannot recover", "Enroll") };
    return { status: 200, value: this.#issue(parsed["csr"] ?? "") };
  }

  #issue(csr: string): IssuedAnswer {
    const { clock } = this.#wish;
    const pki = this.signs;
    const read = readCsr(Buffer.from(csr, "base64"));
    if (isRefusal(read)) throw HauberkError.from(read);
    const issuedAtMs = clock.wallMs();
    const serial = serialFrom(this.#random.bytes(16));
    this.issuedSerials.push(serial.toString("hex"));
    const notAfterMs = Math.floor((issuedAtMs + this.lifetimeMs) / 1_000) * 1_000;
    // A long way back: tests move their clock and not the one that TLS reads.
    const leaf = {
      spki: read.spki,
      id: this.id,
      dnsNames: [],
      serial,
      notBeforeMs: Date.now() - 2 * hourMs,
      notAfterMs,
    };
    const chain = [signLeaf(pki.issuer, leaf), pki.intermediate.der];
    return this.spoil({
      instance: "i1",
      chain: chain.map((der) => der.toString("base64")),
      roots: [pki.root.der.toString("base64")],
      bundleSequence: 1,
      issuedAtMs,
      notAfterMs,
      controlUrls: [this.meshUrl],
      enrollmentUrls: [this.enrollmentUrl],
    });
  }
}

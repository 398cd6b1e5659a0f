import { sign, type KeyObject } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Authority } from "../../src/authority/authority.ts";
import { openCa, type OpenedCa } from "../../src/authority/ca-files.ts";
import { makeCa } from "../../src/authority/init.ts";
import { authorityOptions } from "../../src/authority/options.ts";
import { HauberkError, isRefusal, type Refusal } from "../../src/base/errors.ts";
import { defaultsOf, type OptionValues } from "../../src/base/options.ts";
import {
  recoveryStatement,
  type EnrollRequest,
  type IssuedAnswer,
  type RecoverRequest,
} from "../../src/contract/enrollment.ts";
import { storageOptions } from "../../src/storage/options.ts";
import { openSqliteStore } from "../../src/storage/sqlite-store.ts";
import type { Store } from "../../src/storage/store.ts";
import { readCertificate, type Certificate } from "../../src/x509/certificate.ts";
import { writeCsr } from "../../src/x509/csr.ts";
import { generateKey, spkiOf } from "../../src/x509/keys.ts";
import { ManualClock } from "./manual-clock.ts";
import { SeededRandom } from "./seeded-random.ts";

export const passphrases = { root: "root passphrase", issuing: "issuing passphrase" };
export const testUrls = { control: ["https://127.0.0.1:7443"], enrollment: ["https://127.0.0.1:7444"] };

/** A CA in a temporary folder, made and opened once for many tests: sealing and opening keys is slow by design. */
export async function makeTestCa(trustDomain = "mesh.test"): Promise<{ folder: string; ca: OpenedCa; remove(): void }> {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-ca-"));
  const made = await makeCa({
    caFolder: folder,
    trustDomain,
    rootPassphrase: passphrases.root,
    passphrase: passphrases.issuing,
    clock: new ManualClock(),
    random: new SeededRandom(11),
  });
  if (isRefusal(made)) throw HauberkError.from(made);
  return {
    folder,
    ca: openCa(folder, passphrases.issuing, trustDomain),
    remove: () => rmSync(folder, { recursive: true }),
  };
}

/** An authority with a clock that the test moves, over a store of its own. */
export interface Bench {
  readonly authority: Authority;
  readonly store: Store;
  readonly clock: ManualClock;
  readonly file: string;
  end(): Promise<void>;
}

export async function openBench(
  ca: OpenedCa,
  wish: { options?: Partial<OptionValues<typeof authorityOptions>>; seed?: number } = {},
): Promise<Bench> {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-bench-"));
  const clock = new ManualClock();
  const random = new SeededRandom(wish.seed ?? 5);
  const file = join(folder, "store.db");
  const store = await openSqliteStore({
    file,
    trustDomain: "mesh.test",
    clock,
    random,
    options: defaultsOf(storageOptions),
  });
  const options = { ...defaultsOf(authorityOptions), ...wish.options };
  const end = async () => {
    await store.close();
    rmSync(folder, { recursive: true });
  };
  try {
    const authority = await Authority.over(ca, { store, clock, random, options, urls: testUrls });
    return { authority, store, clock, file, end };
  } catch (thrown) {
    await end();
    throw thrown;
  }
}

/** The value, or the refusal thrown: for steps that a test takes for granted. */
export function granted<T>(value: T | Refusal): T {
  if (isRefusal(value)) throw HauberkError.from(value);
  return value;
}

export function csrOf(key: KeyObject): string {
  return writeCsr(key).toString("base64");
}

/** A workload as the authority sees it: its keys, and what it was issued last. */
export class TestWorkload {
  readonly #authority: Authority;
  readonly recoveryKey = generateKey();
  key = generateKey();
  answer: IssuedAnswer | undefined;

  constructor(authority: Authority) {
    this.#authority = authority;
  }

  enrollRequest(token: string): EnrollRequest {
    return { token, csr: csrOf(this.key), recoveryKey: spkiOf(this.recoveryKey).toString("base64") };
  }

  /** With a new token for `orders.default`, unless one is given. */
  async enroll(token?: string): Promise<this> {
    const service = { service: "orders", namespace: "default" };
    const text = token ?? granted(await this.#authority.createToken({ service, by: "admin/ann" })).token;
    this.answer = granted(await this.#authority.enroll(this.enrollRequest(text), "10.0.0.1"));
    return this;
  }

  get leaf(): Certificate {
    return leafOf(this.answer);
  }

  get instance(): string {
    return this.answer?.instance ?? "";
  }

  /** Renews from its own leaf, or from `from`; keeps the new one only when asked to. */
  renew(key: KeyObject = generateKey(), from: Certificate = this.leaf): Promise<IssuedAnswer | Refusal> {
    return this.#authority.renew(from, { csr: csrOf(key) }, "10.0.0.1");
  }

  async recoverRequest(key: KeyObject = generateKey(), challenge?: string): Promise<RecoverRequest> {
    const asked = challenge ?? granted(this.#authority.recoverChallenge()).challenge;
    const csr = csrOf(key);
    const signature = sign("sha256", recoveryStatement(asked, csr), this.recoveryKey).toString("base64");
    return { instance: this.instance, challenge: asked, csr, signature };
  }
}

export function leafOf(answer: IssuedAnswer | undefined): Certificate {
  return granted(readCertificate(Buffer.from(answer?.chain[0] ?? "", "base64")));
}

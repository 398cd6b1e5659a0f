import { isRefusal } from "../base/errors.ts";
import type { Clock } from "../base/clock.ts";
import type { OptionValues } from "../base/options.ts";
import { faultFields } from "../telemetry/faults.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { proxyOptions } from "./options.ts";

/** One public key as a JWK Set carries it. */
export type Jwk = Readonly<Record<string, unknown>>;

/** Keys that count now; a new set is a new object, which is how a cache notices. */
export interface KeySet {
  readonly keys: readonly Jwk[];
}

/** Where a provider's keys come from. Nothing here ever makes up a key: no keys is `undefined`. */
export interface KeySource {
  /** The keys that count now; an old set may be fetched anew behind this call's back. */
  current(): KeySet | undefined;
  /** Fetches if it may (cool-down, one fetch at a time) and resolves when that is over. Never rejects. */
  refresh(): Promise<void>;
}

export interface JwksContext {
  readonly clock: Clock;
  readonly log: Logger;
  readonly options: OptionValues<typeof proxyOptions>;
  /** The document behind a URI, parsed; never rejects for what the other side does. */
  readonly load: (uri: string) => Promise<unknown>;
}

const keysMax = 100;
const secretMembers = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];

/** What of a JWK Set can verify signatures: public, asymmetric, for signing. A set that shows a private key is refused whole. */
export function readKeySet(value: unknown): KeySet | string {
  const list = typeof value === "object" && value !== null ? (value as { keys?: unknown }).keys : undefined;
  if (!Array.isArray(list)) return "it is no JWK Set";
  if (list.length > keysMax) return `it has more than ${keysMax} keys`;
  const keys: Jwk[] = [];
  for (const key of list as unknown[]) {
    if (typeof key !== "object" || key === null || Array.isArray(key)) return "one of its keys is no object";
    const jwk = key as Record<string, unknown>;
    const { kty, use } = jwk;
    // Whoever publishes a private key has published it to forgers too (CVE-2026-31837).
    if (kty !== "oct" && secretMembers.some((name) => jwk[name] !== undefined)) return "it shows a private key";
    if (kty !== "RSA" && kty !== "EC" && kty !== "OKP") continue;
    if (use !== undefined && use !== "sig") continue;
    keys.push(jwk);
  }
  return keys.length === 0 ? "it has no public key for signatures" : { keys };
}

/** Keys that stand in the provider itself. */
export class InlineKeys implements KeySource {
  readonly #set: KeySet | undefined;

  constructor(jwks: unknown) {
    const read = readKeySet(jwks);
    this.#set = typeof read === "string" ? undefined : read;
  }

  current(): KeySet | undefined {
    return this.#set;
  }

  refresh(): Promise<void> {
    return Promise.resolve();
  }
}

/**
 * Keys behind a URI: fetched on first use, again in the background when they are old, and on an unknown key id; never more
 * often than the cool-down. The last good set counts for a bounded time while the source is down.
 */
export class RemoteKeys implements KeySource {
  readonly #uri: string;
  readonly #context: JwksContext;
  #set: KeySet | undefined;
  #text = "";
  #fetchedAtMs = -Infinity;
  #triedAtMs = -Infinity;
  #pending: Promise<void> | undefined;

  constructor(uri: string, context: JwksContext) {
    this.#uri = uri;
    this.#context = context;
  }

  current(): KeySet | undefined {
    const { clock, options } = this.#context;
    const ageMs = clock.monotonicMs() - this.#fetchedAtMs;
    // Before the first use nothing is fetched: a token that is wrong in itself must cause no traffic.
    if (this.#set !== undefined && ageMs > options.jwksRefreshMs)
      this.refresh().catch((thrown: unknown) => this.#context.log.error("keys were not fetched", faultFields(thrown)));
    return ageMs <= options.jwksRefreshMs + options.jwksStaleMs ? this.#set : undefined;
  }

  refresh(): Promise<void> {
    if (this.#pending !== undefined) return this.#pending;
    const { clock, options } = this.#context;
    if (clock.monotonicMs() - this.#triedAtMs < options.jwksCoolDownMs) return Promise.resolve();
    this.#triedAtMs = clock.monotonicMs();
    this.#pending = this.#load().finally(() => (this.#pending = undefined));
    return this.#pending;
  }

  async #load(): Promise<void> {
    const { clock, log } = this.#context;
    let got: unknown;
    try {
      got = await this.#context.load(this.#uri);
    } catch (thrown) {
      got = thrown;
    }
    const read = isRefusal(got) || got instanceof Error ? got.message : readKeySet(got);
    if (typeof read === "string") {
      log.warn("the keys of a JWT provider could not be fetched; the last good ones count for a while", {
        uri: this.#uri,
        because: read,
      });
      return;
    }
    this.#fetchedAtMs = clock.monotonicMs();
    const text = JSON.stringify(read);
    if (text === this.#text) return; // The same keys stay the same object, and what they verified stays verified.
    this.#text = text;
    this.#set = read;
  }
}

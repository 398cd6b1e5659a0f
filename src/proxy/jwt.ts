import type { Clock } from "../base/clock.ts";
import { isRefusal, messageOf } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { TokenState } from "../policy/decide.ts";
import type { JwtProvider } from "../policy/resource.ts";
import type { Logger } from "../telemetry/logger.ts";
import { BearerReader, type Bearer } from "./bearer.ts";
import { InlineKeys, RemoteKeys, type KeySet, type KeySource } from "./jwks.ts";
import type { proxyOptions } from "./options.ts";
import { TokenCache } from "./token-cache.ts";
import { judgeText, signatureAlgorithms, type TokenText } from "./token-text.ts";

/**
 * Verifies bearer tokens (RFC 7519 under the rules of RFC 8725) and remembers the outcome: a hit is synchronous and costs
 * one hash. jose is loaded when the first token is to be verified.
 */
export interface VerifierContext {
  readonly clock: Clock;
  readonly log: Logger;
  readonly options: OptionValues<typeof proxyOptions>;
  readonly load: (uri: string) => Promise<unknown>;
}

type Providers = ReadonlyMap<string, JwtProvider>;

/** What belongs to one provider as it now stands. */
interface Issuer {
  readonly provider: JwtProvider;
  readonly keys: KeySource;
  readonly valid: TokenCache;
  readonly refused: TokenCache;
  /** Refused, or another provider's, by its text alone: no key can change that. */
  readonly judged: TokenCache;
  readonly pending: Map<string, Promise<TokenState>>;
  /** The set that everything in `valid` was verified with. */
  set: KeySet | undefined;
  resolve: KeyResolver | undefined;
}

type KeyResolver = ReturnType<(typeof import("jose"))["createLocalJWKSet"]>;

const absent: TokenState = Object.freeze({ is: "absent" });
const skewSeconds = 60;
const refusedMs = 10_000;

export class TokenVerifier {
  readonly bearers = new BearerReader();
  readonly #context: VerifierContext;
  readonly #issuers = new WeakMap<JwtProvider, Issuer>();
  /** Kept by URI, so that another audience in a policy does not throw good keys away. */
  readonly #sources = new Map<string, RemoteKeys>();
  #issuerNames: ReadonlySet<string> = new Set();
  #pending = 0;

  constructor(context: VerifierContext) {
    this.#context = context;
  }

  /** Told at each snapshot: what no provider names any more is forgotten. */
  use(providers: Providers): void {
    const uris = new Set<string>();
    const names = new Set<string>();
    for (const provider of providers.values()) {
      names.add(provider.issuer);
      if (provider.keys.is === "uri") uris.add(provider.keys.uri);
    }
    this.#issuerNames = names;
    for (const uri of this.#sources.keys()) if (!uris.has(uri)) this.#sources.delete(uri);
  }

  /** What is known of the token now, or undefined where `verify` must be asked. */
  check(name: string, bearer: Bearer, providers: Providers): TokenState | undefined {
    const token = bearer.token;
    if (token === undefined) return bearer.wrong === undefined ? absent : { is: "invalid", because: bearer.wrong };
    const provider = providers.get(name);
    if (provider === undefined) return { is: "unavailable", because: `there is no provider ${name}` };
    const issuer = this.#issuerOf(provider);
    const set = issuer.keys.current();
    const wallMs = this.#context.clock.wallMs();
    if (set === undefined || set !== issuer.set) return issuer.judged.get(bearer.digest, wallMs);
    const { digest } = bearer;
    return issuer.valid.get(digest, wallMs) ?? issuer.refused.get(digest, wallMs) ?? issuer.judged.get(digest, wallMs);
  }

  /** Verifies, or joins a verification of the same token under way. Never rejects. */
  verify(name: string, bearer: Bearer, providers: Providers): Promise<TokenState> {
    const known = this.check(name, bearer, providers);
    if (known !== undefined) return Promise.resolve(known);
    const issuer = this.#issuerOf(providers.get(name) as JwtProvider);
    const { digest } = bearer;
    const underWay = issuer.pending.get(digest);
    if (underWay !== undefined) return underWay;
    if (this.#pending >= this.#context.options.tokensPendingMax) {
      return Promise.resolve({ is: "unavailable", because: "too many tokens are being verified" });
    }
    this.#pending++;
    const verification = this.#verify(issuer, bearer)
      .catch((thrown: unknown): TokenState => {
        this.#context.log.error("a token's verification failed in an unforeseen way", { because: messageOf(thrown) });
        return { is: "unavailable", because: "the verification failed" };
      })
      .finally(() => {
        this.#pending--;
        issuer.pending.delete(digest);
      });
    issuer.pending.set(digest, verification);
    return verification;
  }

  #issuerOf(provider: JwtProvider): Issuer {
    let issuer = this.#issuers.get(provider);
    if (issuer === undefined) {
      const max = this.#context.options.tokenCacheMax;
      issuer = {
        provider,
        keys: this.#sourceOf(provider),
        valid: new TokenCache(max),
        // A flood of wrong tokens must not push the right ones out.
        refused: new TokenCache(Math.min(max, 1_024)),
        judged: new TokenCache(Math.min(max, 1_024)),
        pending: new Map(),
        set: undefined,
        resolve: undefined,
      };
      this.#issuers.set(provider, issuer);
    }
    return issuer;
  }

  #sourceOf(provider: JwtProvider): KeySource {
    if (provider.keys.is === "inline") return new InlineKeys(provider.keys.jwks);
    const { uri } = provider.keys;
    let source = this.#sources.get(uri);
    if (source === undefined) this.#sources.set(uri, (source = new RemoteKeys(uri, this.#context)));
    return source;
  }

  async #verify(issuer: Issuer, bearer: Bearer): Promise<TokenState> {
    const token = bearer.token as string;
    // Judged before any key is fetched: a token that is wrong in itself causes no traffic.
    const text = judgeText(token, issuer.provider, this.#issuerNames);
    const state = text === "absent" ? absent : isRefusal(text) ? invalid(text.message) : undefined;
    if (state !== undefined) return this.#remember(issuer.judged, bearer, state);
    if (issuer.keys.current() === undefined) await issuer.keys.refresh();
    let outcome = await this.#verifyWith(issuer, bearer, text as TokenText);
    if (outcome === "unknown key") {
      const before = issuer.set;
      await issuer.keys.refresh();
      if (issuer.keys.current() !== before) outcome = await this.#verifyWith(issuer, bearer, text as TokenText);
    }
    if (outcome !== "unknown key") return outcome;
    return this.#remember(issuer.refused, bearer, invalid("its key is none of the provider's"));
  }

  async #verifyWith(issuer: Issuer, bearer: Bearer, text: TokenText): Promise<TokenState | "unknown key"> {
    const { jwtVerify, createLocalJWKSet, errors } = await import("jose");
    const set = issuer.keys.current();
    if (set === undefined) return { is: "unavailable", because: "the provider's keys cannot be had" };
    if (issuer.set !== set) {
      issuer.set = set;
      issuer.resolve = createLocalJWKSet({ keys: set.keys.map((key) => ({ ...key })) });
      issuer.valid.clear();
      issuer.refused.clear();
    }
    const { clock, options } = this.#context;
    const resolve = issuer.resolve as KeyResolver;
    const wanted = {
      issuer: issuer.provider.issuer,
      audience: [...issuer.provider.audiences],
      algorithms: issuer.provider.algorithms.filter((name) => signatureAlgorithms.has(name)),
      requiredClaims: ["exp", "aud"],
      clockTolerance: skewSeconds,
      currentDate: new Date(clock.wallMs()),
    };
    try {
      const { payload } = await verifyWithAny(bearer.token as string, resolve, wanted, { jwtVerify, errors });
      const untilMs = Math.min(
        (payload.exp as number) * 1_000 + skewSeconds * 1_000,
        clock.wallMs() + options.tokenCacheMs,
      );
      const state: TokenState = { is: "valid", claims: Object.freeze(payload as Record<string, unknown>) };
      // Another set may have come while this one was at work: then the next request verifies again.
      if (issuer.set === set) issuer.valid.set(bearer.digest, state, untilMs);
      return state;
    } catch (thrown) {
      if (thrown instanceof errors.JWKSNoMatchingKey) return "unknown key";
      const because = thrown instanceof errors.JOSEError ? thrown.message : "it cannot be verified";
      return this.#remember(issuer.refused, bearer, invalid(`${because} (${text.algorithm})`));
    }
  }

  #remember(cache: TokenCache, bearer: Bearer, state: TokenState): TokenState {
    cache.set(bearer.digest, state, this.#context.clock.wallMs() + refusedMs);
    return state;
  }
}

function invalid(because: string): TokenState {
  return { is: "invalid", because };
}

type Jose = Pick<typeof import("jose"), "jwtVerify" | "errors">;
type Wanted = NonNullable<Parameters<Jose["jwtVerify"]>[2]>;

/** A token without a key id may fit several keys: each is tried, as many as the set holds. */
async function verifyWithAny(token: string, resolve: KeyResolver, wanted: Wanted, jose: Jose) {
  try {
    return await jose.jwtVerify(token, resolve, wanted);
  } catch (thrown) {
    if (!(thrown instanceof jose.errors.JWKSMultipleMatchingKeys)) throw thrown;
    for await (const key of thrown) {
      try {
        return await jose.jwtVerify(token, key, wanted);
      } catch (inner) {
        if (!(inner instanceof jose.errors.JWSSignatureVerificationFailed)) throw inner;
      }
    }
    throw new jose.errors.JWSSignatureVerificationFailed();
  }
}

import { createHmac, timingSafeEqual } from "node:crypto";
import type { Clock } from "../base/clock.ts";
import type { Random } from "../base/random.ts";

const nonceBytes = 16;
const timeBytes = 8;
const macBytes = 32;

/**
 * Challenges that need no memory until they are answered: nonce, end and an HMAC over both by a key of this process.
 * A challenge is good once, and for a short time; those that were used are remembered until they end.
 */
export class RecoveryChallenges {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #lifetimeMs: number;
  readonly #key: Buffer;
  /** Used challenges with their end on the monotonic clock, in the order of use. */
  readonly #used = new Map<string, number>();
  readonly #usedMax: number;

  constructor(context: { clock: Clock; random: Random; lifetimeMs: number; usedMax?: number }) {
    this.#clock = context.clock;
    this.#random = context.random;
    this.#lifetimeMs = context.lifetimeMs;
    this.#key = context.random.bytes(32);
    this.#usedMax = context.usedMax ?? 100_000;
  }

  make(): string {
    const body = Buffer.alloc(nonceBytes + timeBytes);
    this.#random.bytes(nonceBytes).copy(body);
    body.writeDoubleBE(this.#clock.monotonicMs() + this.#lifetimeMs, nonceBytes);
    return Buffer.concat([body, this.#mac(body)]).toString("base64url");
  }

  /** Why it is not good, or undefined where it is. */
  faultOf(challenge: string): string | undefined {
    const bytes = Buffer.from(challenge, "base64url");
    // Canonical, so that a used challenge cannot be spelled in another way.
    if (bytes.length !== nonceBytes + timeBytes + macBytes || bytes.toString("base64url") !== challenge) {
      return "the challenge is none";
    }
    const body = bytes.subarray(0, nonceBytes + timeBytes);
    if (!timingSafeEqual(bytes.subarray(body.length), this.#mac(body)))
      return "the challenge is not of this control plane";
    if (body.readDoubleBE(nonceBytes) <= this.#clock.monotonicMs()) return "the challenge is too old";
    if (this.#used.has(challenge)) return "the challenge was used before";
    return undefined;
  }

  /** Marks a good challenge as used; false when too many are remembered, and it must count as used already. */
  use(challenge: string): boolean {
    const nowMs = this.#clock.monotonicMs();
    for (const [used, endMs] of this.#used) {
      if (endMs > nowMs) break;
      this.#used.delete(used);
    }
    if (this.#used.size >= this.#usedMax) return false;
    this.#used.set(challenge, nowMs + this.#lifetimeMs);
    return true;
  }

  #mac(body: Buffer): Buffer {
    return createHmac("sha256", this.#key).update("hauberk recovery challenge v1\n").update(body).digest();
  }
}

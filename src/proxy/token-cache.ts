import type { TokenState } from "../policy/decide.ts";

interface Entry {
  readonly state: TokenState;
  readonly untilMs: number;
}

/**
 * What verified to what, by the token's digest, each entry with its end. Bounded: two generations, the older of which is
 * dropped whole when the younger is full; what is used moves on, so a hit costs one look-up and no list is kept.
 */
export class TokenCache {
  readonly #halfMax: number;
  #young = new Map<string, Entry>();
  #old = new Map<string, Entry>();

  constructor(entriesMax: number) {
    this.#halfMax = Math.max(1, Math.floor(entriesMax / 2));
  }

  get(digest: string, wallMs: number): TokenState | undefined {
    let entry = this.#young.get(digest);
    if (entry === undefined) {
      entry = this.#old.get(digest);
      if (entry === undefined) return undefined;
      this.#old.delete(digest);
      if (entry.untilMs > wallMs) this.#put(digest, entry);
    }
    if (entry.untilMs > wallMs) return entry.state;
    this.#young.delete(digest);
    return undefined;
  }

  set(digest: string, state: TokenState, untilMs: number): void {
    this.#put(digest, { state, untilMs });
  }

  clear(): void {
    this.#young = new Map();
    this.#old = new Map();
  }

  get size(): number {
    return this.#young.size + this.#old.size;
  }

  #put(digest: string, entry: Entry): void {
    if (this.#young.size >= this.#halfMax && !this.#young.has(digest)) {
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(digest, entry);
  }
}

import type { Version } from "../contract/watch.ts";
import { writeLine } from "../contract/read-watch.ts";
import { stateLines } from "../contract/state-lines.ts";
import type { Peer } from "./peers.ts";

/** Where a stream's lines go: an HTTP response, or a test. */
export interface Sink {
  /** False: held back, `onDrain` will be called. */
  write(text: string): boolean;
  /** After what was written. */
  end(): void;
  /** At once. */
  destroy(): void;
}

/** What was last said to a sidecar: keys with their entries as JSON. Most of the strings are shared between streams. */
export type Said = ReadonlyMap<string, string>;

/**
 * One sidecar's stream as the control plane sees it. It remembers what was said, so that a reader who is slow gets
 * one difference when it has caught up, however much happened meanwhile: at most one line waits for anybody.
 */
export class WatchStream {
  readonly peer: Peer & { readonly standing: { readonly is: "workload" } };
  readonly openedAtMs: number;
  /** On the monotonic clock. */
  heardAtMs: number;
  blockedSinceMs: number | undefined;
  release = "";
  /** What its owner calls the instance; null where it was not said. */
  name: string | null = null;
  /** Processes that carry the sidecar's traffic. */
  workers = 1;
  /** Spreads the pings of all streams. */
  slot = 0;
  /** False until the hello was answered. */
  greeted = false;
  ended = false;
  readonly subscriptions = new Set<string>();
  sent: Version | null = null;
  acknowledged: Version | null = null;
  rejected: { readonly version: Version; readonly because: string } | null = null;
  readonly #sink: Sink;
  #said = new Map<string, string>();
  /** The lines of what is being said that were not written yet. */
  #rest: Iterator<string> | undefined;

  constructor(
    peer: Peer & { readonly standing: { readonly is: "workload" } },
    sink: Sink,
    opened: { readonly wallMs: number; readonly monotonicMs: number },
  ) {
    this.peer = peer;
    this.#sink = sink;
    this.openedAtMs = opened.wallMs;
    this.heardAtMs = opened.monotonicMs;
  }

  get instance(): string {
    return this.peer.standing.instance;
  }

  /** The sidecar has dropped what it knew about the service: the next answer is sent, whatever it is. */
  forget(key: string): void {
    this.#said.delete(key);
  }

  /** Says what differs from what was said, if anything; all of it in a new epoch. True where something was sent. */
  say(state: Said, version: Version, atMs: number): boolean {
    if (this.ended || this.blockedSinceMs !== undefined) return false;
    if (!this.#pour(atMs)) return true;
    const lines =
      this.sent?.epoch === version.epoch
        ? this.#delta(state, version)
        : stateLines({ type: "full", version, set: [...state.values()], gone: [] });
    if (lines === undefined) return false;
    this.#said = new Map(state);
    this.sent = version;
    this.#rest = lines;
    this.#pour(atMs);
    return true;
  }

  ping(number: number, now: { readonly wallMs: number; readonly monotonicMs: number }): void {
    if (this.ended || this.blockedSinceMs !== undefined) return;
    this.#write(writeLine({ type: "ping", number, wallMs: now.wallMs }), now.monotonicMs);
  }

  /** A last word, then the end. */
  goodbye(because: string): void {
    if (this.ended) return;
    this.#sink.write(writeLine({ type: "goodbye", because }));
    this.end();
  }

  /** Asks for another stream while this one still stands. */
  askToMove(because: string): void {
    if (!this.ended) this.#sink.write(writeLine({ type: "goodbye", because }));
  }

  /** Says that something that came does not count; the stream goes on. */
  notice({ code, message, hint }: { readonly code: string; readonly message: string; readonly hint: string }): void {
    if (!this.ended) this.#sink.write(writeLine({ type: "notice", code, message, hint }));
  }

  refuse(refusal: { readonly code: string; readonly message: string; readonly hint: string }): void {
    if (this.ended) return;
    const { code, message, hint } = refusal;
    this.#sink.write(writeLine({ type: "refused", code, message, hint }));
    this.end();
  }

  end(): void {
    this.ended = true;
    this.#sink.end();
  }

  destroy(): void {
    this.ended = true;
    this.#sink.destroy();
  }

  /** Writes what is left of a message for as long as it is taken; false where some of it has to wait. */
  #pour(atMs: number): boolean {
    for (let line = this.#rest?.next(); line !== undefined && line.done !== true; line = this.#rest?.next()) {
      this.#write(line.value, atMs);
      if (this.blockedSinceMs !== undefined) return false;
    }
    this.#rest = undefined;
    return true;
  }

  #delta(state: Said, version: Version): Iterator<string> | undefined {
    const set: string[] = [];
    const gone: string[] = [];
    for (const [key, text] of state) if (this.#said.get(key) !== text) set.push(text);
    for (const key of this.#said.keys()) if (!state.has(key)) gone.push(JSON.stringify(key));
    if (set.length === 0 && gone.length === 0) return undefined;
    return stateLines({ type: "delta", version, set, gone });
  }

  #write(line: string, atMs: number): void {
    if (!this.#sink.write(line)) this.blockedSinceMs = atMs;
  }
}

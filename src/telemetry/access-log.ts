import type { Clock } from "../base/clock.ts";

/**
 * One JSON line per request, off by default. What a peer wrote arrives here: every value is escaped by JSON, control
 * characters beyond JSON's included, and every text is capped, so that a request can write neither a second line nor a long one.
 */
export interface AccessEntry {
  readonly direction: "inbound" | "outbound";
  readonly method: string;
  readonly authority: string;
  readonly path: string;
  readonly status: number;
  /** Hauberk's reason where it made the answer itself; undefined for an answer of the routee. */
  readonly code: string | undefined;
  /** Who asked: an SPIFFE ID, or "" where nobody is proven. */
  readonly principal: string;
  /** `orders.default`, or "" where no service was found. */
  readonly service: string;
  /** Address of the endpoint or routee that answered, or "". */
  readonly endpoint: string;
  /** The policy that decided, or "". */
  readonly policy: string;
  readonly requestId: string;
  /** 1 for no retry. */
  readonly attempts: number;
  readonly durationMs: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
}

const textMax = 256;
/** Lines wait for each other up to this size or this long, then they are written at once. */
const batchBytes = 16_384;
const flushMs = 1_000;

// C0 controls are JSON's own business; DEL, C1 and the two line separators break terminals and line readers.
// eslint-disable-next-line no-control-regex
const unsafe = /[\u007f-\u009f\u2028\u2029]/g;

/** The line of one request, without its line feed. `worker` is undefined where one process carries everything. */
export function accessLine(entry: AccessEntry, wallMs: number, worker?: number): string {
  const line = JSON.stringify({
    time: new Date(wallMs).toISOString(),
    worker,
    direction: entry.direction,
    method: cap(entry.method),
    authority: cap(entry.authority),
    path: cap(withoutQuery(entry.path)),
    status: entry.status,
    code: entry.code,
    principal: cap(entry.principal),
    service: cap(entry.service),
    endpoint: cap(entry.endpoint),
    policy: cap(entry.policy),
    requestId: cap(entry.requestId),
    attempts: entry.attempts,
    durationMs: Math.round(entry.durationMs * 1_000) / 1_000,
    bytesIn: entry.bytesIn,
    bytesOut: entry.bytesOut,
  });
  return line.replace(unsafe, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** The query is where people put what should not be in logs. */
function withoutQuery(path: string): string {
  const at = path.indexOf("?");
  return at < 0 ? path : path.slice(0, at);
}

function cap(text: string): string {
  return text.length <= textMax ? text : `${text.slice(0, textMax - 1)}…`;
}

/** Gathers lines and hands them to `sink` in batches. Ask `enabled` before building an entry. */
export class AccessLog {
  readonly enabled: boolean;
  readonly #clock: Clock;
  readonly #sink: (text: string) => void;
  readonly #worker: number | undefined;
  #waiting = "";
  #cancel: (() => void) | undefined;

  constructor(use: { enabled: boolean; clock: Clock; sink: (text: string) => void; worker?: number }) {
    this.enabled = use.enabled;
    this.#clock = use.clock;
    this.#sink = use.sink;
    this.#worker = use.worker;
  }

  write(entry: AccessEntry): void {
    if (!this.enabled) return;
    this.#waiting += `${accessLine(entry, this.#clock.wallMs(), this.#worker)}\n`;
    if (this.#waiting.length >= batchBytes) this.flush();
    else this.#cancel ??= this.#clock.after(flushMs, () => this.flush());
  }

  /** Writes what waits; also to be called at the end of the process. */
  flush(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    if (this.#waiting === "") return;
    const text = this.#waiting;
    this.#waiting = "";
    this.#sink(text);
  }
}

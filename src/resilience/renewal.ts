/**
 * When a certificate is renewed, retried and drained (DESIGN, section 5), as functions of its life and of numbers drawn.
 * All moments are on the wall clock, because a certificate's end is.
 */
export interface Life {
  /** Life counts from issuance, not from the backdated notBefore. */
  readonly issuedAtMs: number;
  readonly notAfterMs: number;
}

const retryWindowMaxMs = 30_000;
const drainMaxMs = 30_000;

/** `draw` in [0, 1) is taken once per certificate: drawing at each look would undo the spread. */
export function renewAtMs(life: Life, draw: number): number {
  return life.issuedAtMs + lifetimeMs(life) * (0.5 + 0.25 * draw);
}

/** The smaller of 30 seconds and 5 % of the life: a failing renewal is tried once in each such window. */
export function retryWindowMs(life: Life): number {
  return Math.max(1, Math.min(retryWindowMaxMs, lifetimeMs(life) * 0.05));
}

/**
 * The next try after one that failed at `nowMs`: a random point of the next window, windows being counted from the first
 * try. So there is one try per window however long a try takes, and a fleet that failed together does not return together.
 */
export function retryAtMs(life: Life, tried: { firstAtMs: number; nowMs: number; draw: number }): number {
  const windowMs = retryWindowMs(life);
  const window = Math.max(0, Math.floor((tried.nowMs - tried.firstAtMs) / windowMs));
  return tried.firstAtMs + (window + 1 + tried.draw) * windowMs;
}

/** How often to look at the wall clock, which may jump (sleep, an operator): at most a twentieth of the life or 30 seconds. */
export function tickMs(life: Life): number {
  return retryWindowMs(life);
}

/**
 * When a connection made with a certificate begins to drain so that it never outlives it: a tenth of the life before its
 * end, at most 30 seconds. What has not ended by `notAfterMs` is cut then.
 */
export function drainAtMs(life: Life): number {
  return life.notAfterMs - Math.min(drainMaxMs, lifetimeMs(life) * 0.1);
}

function lifetimeMs(life: Life): number {
  return Math.max(0, life.notAfterMs - life.issuedAtMs);
}

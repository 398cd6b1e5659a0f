/**
 * How long to wait before trying again: full jitter, anywhere between nothing and a span that doubles.
 * With the default base of 25 ms the first retry waits 0 to 25 ms, the second up to 75, the third up to 175.
 * `attempt` is 1 for the first retry; `maxMs` is ten times the base by default; `draw` in [0, 1).
 */
export function backoffMs(wait: { attempt: number; draw: number; baseMs?: number; maxMs?: number }): number {
  const baseMs = wait.baseMs ?? 25;
  const maxMs = wait.maxMs ?? baseMs * 10;
  // The exponent is capped because some callers try for ever.
  const spanMs = Math.min(maxMs, baseMs * (2 ** Math.min(30, Math.max(1, wait.attempt)) - 1));
  return wait.draw * spanMs;
}

/**
 * Deadlines travel on the hop as what is left of them, `x-hauberk-timeout-ms`, because clocks differ between machines.
 * A peer can shorten a deadline, never lengthen it.
 */
export const timeoutField = "x-hauberk-timeout-ms";

const form = /^\d{1,9}$/;

/** The value of the field in milliseconds; undefined where it is none: then it counts for nothing. */
export function readTimeoutMs(text: string): number | undefined {
  return form.test(text) ? Number(text) : undefined;
}

/** The moment at which to give up: the own limit, or what the peer still has, whichever is sooner. */
export function deadlineAtMs(limit: { nowMs: number; ownMs: number; receivedMs: number | undefined }): number {
  const ms = limit.receivedMs === undefined ? limit.ownMs : Math.min(limit.ownMs, limit.receivedMs);
  return limit.nowMs + ms;
}

/** What to send on: whole milliseconds left, at least 0. */
export function leftMs(deadlineMs: number, nowMs: number): number {
  return Math.max(0, Math.floor(deadlineMs - nowMs));
}

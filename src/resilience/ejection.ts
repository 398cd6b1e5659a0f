import type { ResilienceLimits } from "./options.ts";

/**
 * Ejection by comparison: an endpoint that does much worse than the others together is left out for a while; at most
 * half of them, and never the last. Where all do badly nobody is left out: that is the service, not the endpoint.
 */
export interface EndpointRecord {
  readonly key: string;
  /** Good answers in the window. */
  readonly good: number;
  readonly bad: number;
}

export interface Ejected {
  readonly untilMs: number;
  /** How often; each time makes the next one longer. */
  readonly times: number;
}

/** Endpoint to its ejection, those that have ended included as long as they count for the next. */
export type Ejections = ReadonlyMap<string, Ejected>;

export const noEjections: Ejections = new Map();

type EjectionLimits = Pick<ResilienceLimits, "ejectionGapRatio" | "ejectionRequestsMin" | "ejectionMs">;

const timesMax = 10;

/** The next ejections: asked every few seconds with the record of every endpoint, ejected ones included. */
export function review(
  before: Ejections,
  seen: { readonly records: readonly EndpointRecord[]; readonly nowMs: number },
  limits: EjectionLimits,
): Ejections {
  const { records, nowMs } = seen;
  const after = new Map<string, Ejected>();
  let out = 0;
  for (const { key } of records) {
    const was = before.get(key);
    if (was === undefined) continue;
    if (was.untilMs > nowMs) out++;
    // One good span after its end forgives one time.
    const forgiven = Math.floor((nowMs - was.untilMs) / limits.ejectionMs);
    if (was.untilMs > nowMs || was.times > forgiven) after.set(key, was);
  }
  const outMax = Math.floor(records.length / 2);
  for (const { key } of worstFirst(records, limits)) {
    if (out >= outMax) break;
    const was = after.get(key);
    if (was !== undefined && was.untilMs > nowMs) continue;
    const times = Math.min(timesMax, (was?.times ?? 0) + 1);
    after.set(key, { untilMs: nowMs + limits.ejectionMs * times, times });
    out++;
  }
  return after;
}

/** The endpoints of `keys` to leave out now: at most half of them, however the list has shrunk since the review. */
export function leftOut(ejections: Ejections, keys: readonly string[], nowMs: number): ReadonlySet<string> {
  const out = new Set<string>();
  if (ejections.size === 0) return out;
  const outMax = Math.floor(keys.length / 2);
  for (const key of keys) {
    if (out.size >= outMax) break;
    const ejected = ejections.get(key);
    if (ejected !== undefined && ejected.untilMs > nowMs) out.add(key);
  }
  return out;
}

function worstFirst(records: readonly EndpointRecord[], limits: EjectionLimits): readonly EndpointRecord[] {
  let good = 0;
  let all = 0;
  for (const record of records) {
    good += record.good;
    all += record.good + record.bad;
  }
  const share = (record: EndpointRecord): number => record.good / (record.good + record.bad);
  return records
    .filter((record) => {
      const own = record.good + record.bad;
      const others = all - own;
      if (own < limits.ejectionRequestsMin || others < limits.ejectionRequestsMin) return false;
      return (good - record.good) / others - share(record) >= limits.ejectionGapRatio;
    })
    .sort((a, b) => share(a) - share(b));
}

/**
 * Who is where, for how long: the decisions about leases as pure functions (DESIGN, section 9).
 * A lease is held for as long as its sidecar's stream stands, and for a grace period after that.
 */
export interface Lease {
  readonly instance: string;
  /** Whether its stream stands: the clock of such a lease does not run. */
  readonly connected: boolean;
  /** When the grace period is over, on the monotonic clock; means nothing while connected. */
  readonly endsAtMs: number;
  /** Whether callers are told of it; a draining one is not. */
  readonly offered: boolean;
  /** Ended, and kept only because no other endpoint is left. */
  readonly stale: boolean;
}

export interface Lapse {
  /** Gone. */
  readonly ended: readonly string[];
  /** Kept although they ended. */
  readonly stale: readonly string[];
}

const nothing: Lapse = { ended: [], stale: [] };

/**
 * Which leases of one service are over. The last endpoints of a service stay, marked stale, until one comes (back)
 * that is alive: a caller who tries an old address is better off than one who has none.
 */
export function lapse(leases: readonly Lease[], now: { atMs: number; heldUntilMs: number }): Lapse {
  if (now.atMs < now.heldUntilMs) return nothing;
  const isOver = (lease: Lease): boolean => !lease.connected && lease.endsAtMs <= now.atMs;
  const over = leases.filter(isOver);
  if (over.length === 0) return nothing;
  const othersLeft = leases.some((lease) => lease.offered && !isOver(lease));
  const isKept = (lease: Lease): boolean => !othersLeft && lease.offered;
  return {
    ended: over.filter((lease) => !isKept(lease)).map((lease) => lease.instance),
    stale: over.filter((lease) => isKept(lease) && !lease.stale).map((lease) => lease.instance),
  };
}

export interface HoldLimits {
  readonly graceMs: number;
  readonly reconnectWindowMs: number;
  readonly massLossRatio: number;
  /** So many at least: one stream of three is a third, and one machine. */
  readonly massLossMin: number;
}

/** What the registry remembers about streams that ended, to tell one dead machine from a cut network. */
export interface Hold {
  /** No lease ends before, on the monotonic clock. */
  readonly heldUntilMs: number;
  /** Losses of the last grace period, counted in slices so that ten thousand at once cost no more than one. */
  readonly losses: readonly { readonly sinceMs: number; readonly count: number }[];
}

/** The control plane was down, and nobody could say that they are alive: all get a full reconnect window. */
export function holdAfterStart(atMs: number, limits: HoldLimits): Hold {
  return { heldUntilMs: atMs + limits.reconnectWindowMs, losses: [] };
}

/** A stream ended without a word; `streamsLeft` is how many stand now. */
export function holdAfterLoss(hold: Hold, loss: { atMs: number; streamsLeft: number }, limits: HoldLimits): Hold {
  const sliceMs = limits.graceMs / 16;
  const recent = hold.losses.filter((slice) => slice.sinceMs > loss.atMs - limits.graceMs);
  const last = recent.at(-1);
  const losses =
    last !== undefined && loss.atMs - last.sinceMs < sliceMs
      ? [...recent.slice(0, -1), { sinceMs: last.sinceMs, count: last.count + 1 }]
      : [...recent, { sinceMs: loss.atMs, count: 1 }];
  const lost = losses.reduce((sum, slice) => sum + slice.count, 0);
  const many = lost >= limits.massLossMin && lost / (lost + loss.streamsLeft) > limits.massLossRatio;
  return {
    losses,
    heldUntilMs: many ? Math.max(hold.heldUntilMs, loss.atMs + limits.reconnectWindowMs) : hold.heldUntilMs,
  };
}

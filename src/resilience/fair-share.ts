/** Places that many share, as somebody sees them who wants one of them. */
export interface Places {
  /** How many there are. */
  readonly max: number;
  /** How many are taken, by whomever. */
  readonly taken: number;
  /** How many of those are one's own. */
  readonly own: number;
  /** Of what the others leave, one gets at most this part; 1 for all of it. */
  readonly ratio: number;
}

/**
 * Whether one more place would be more than one's share. The share shrinks as others come, so that whoever has all that it
 * may have still leaves places for those who have none: a fixed maximum for each would be taken whole by a few together. Shares
 * are rounded up, so that nobody is refused its first place, and of two or three there are none. (Dynamic thresholds, after
 * Choudhury and Hahne, 1998.)
 */
export function isOverShare({ max, taken, own, ratio }: Places): boolean {
  return own > 0 && own >= (max - taken + own) * ratio;
}

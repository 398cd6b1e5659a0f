/**
 * Which endpoint next: a balancer sees the endpoints that may be used now and names one of them.
 * It is pure but for what it remembers of its own turns; randomness is an argument.
 */
export interface Candidate {
  /** The endpoint's name, the same from pick to pick. */
  readonly key: string;
  /** Exchanges under way on it now; for TCP, open streams. */
  readonly open: number;
  /** Its share relative to the others, 1 by default; one of 0 is picked only where all are 0. */
  readonly weight: number;
}

export interface Balancer {
  /**
   * One of `candidates`, or undefined where there is none. `draw` gives numbers in [0, 1).
   * The list is read, never kept: it may be another one at each call.
   *
   *     const endpoint = roundRobin().pick(endpoints, () => random.draw());
   */
  pick<C extends Candidate>(candidates: readonly C[], draw: () => number): C | undefined;
}

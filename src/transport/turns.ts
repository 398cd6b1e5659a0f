/** A set, or what answers like one. */
export interface Members<T> extends Iterable<T> {
  has(member: T): boolean;
}

export interface TurnTerms {
  readonly perTurn: number;
  /** What was done with one member threw: the others have their turn all the same, and this is for the log. */
  onFault(thrown: unknown): void;
}

/**
 * Does something with each of many in several turns of the event loop, some at a time, so that what costs a signature
 * for each of ten thousand connections stops no request. Members that leave the set meanwhile are left out; it begins in the
 * next turn.
 */
export function inTurns<T>(members: Members<T>, how: TurnTerms, each: (member: T) => void): void {
  const waiting = [...members];
  const turn = (): void => {
    for (const member of waiting.splice(-how.perTurn)) {
      try {
        if (members.has(member)) each(member);
      } catch (thrown) {
        how.onFault(thrown);
      }
    }
    if (waiting.length > 0) setImmediate(turn);
  };
  if (waiting.length > 0) setImmediate(turn);
}

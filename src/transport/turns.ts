/** A set, or what answers like one. */
export interface Members<T> extends Iterable<T> {
  has(member: T): boolean;
}

/**
 * Does something with each of many in several turns of the event loop, `perTurn` at a time, so that what costs a signature
 * for each of ten thousand connections stops no request. Members that leave the set meanwhile are left out; it begins in the
 * next turn.
 */
export function inTurns<T>(members: Members<T>, perTurn: number, each: (member: T) => void): void {
  const waiting = [...members];
  const turn = (): void => {
    for (const member of waiting.splice(-perTurn)) if (members.has(member)) each(member);
    if (waiting.length > 0) setImmediate(turn);
  };
  if (waiting.length > 0) setImmediate(turn);
}

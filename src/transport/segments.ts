/**
 * Buffers that what is written is gathered in, and that are used again once it has left: allocating one for each write would
 * make the garbage collector the busiest part of a sidecar that carries large bodies.
 */
export const segmentBytes = 65_536;

/** Segments that lie ready for the next connection with something to say; an idle connection holds none. */
const poolMax = 64;

const pool: Buffer[] = [];

/** A buffer of at least `bytes`. */
export function lendSegment(bytes = segmentBytes): Buffer {
  if (bytes > segmentBytes) return Buffer.allocUnsafeSlow(bytes);
  return pool.pop() ?? Buffer.allocUnsafeSlow(segmentBytes);
}

/** Only what nobody reads or writes any more. */
export function giveBackSegment(segment: Buffer): void {
  if (segment.length === segmentBytes && pool.length < poolMax) pool.push(segment);
}

/**
 * Buffers that what is written is gathered in, and that are used again once it has left: allocating one for each write would
 * make the garbage collector the busiest part of a sidecar that carries large bodies.
 */
export const segmentBytes = 65_536;

/** Segments that lie ready for the next connection with something to say; an idle connection holds none. */
const poolMax = 128;
/** Less than this is kept in a buffer of its own size: many slow streams must not hold a segment each for a few bytes. */
const keptMin = segmentBytes / 4;

const pool: Buffer[] = [];
/** All that came from here: what is kept of a segment can be told from everybody else's buffers. */
const own = new WeakSet<ArrayBufferLike>();

/** A buffer of at least `bytes`. */
export function lendSegment(bytes = segmentBytes): Buffer {
  if (bytes > segmentBytes) return Buffer.allocUnsafeSlow(bytes);
  const pooled = pool.pop();
  if (pooled !== undefined) return pooled;
  const made = Buffer.allocUnsafeSlow(segmentBytes);
  own.add(made.buffer);
  return made;
}

/** A copy of a lent chunk, for a while: `dropCopy` says that nobody reads it any more. */
export function copyLent(chunk: Buffer): Buffer {
  if (chunk.length < keptMin || chunk.length > segmentBytes) return Buffer.from(chunk);
  const segment = lendSegment();
  chunk.copy(segment);
  return segment.subarray(0, chunk.length);
}

/** Gives back what `copyLent` made, or what is left of it; any other buffer is left to the collector. */
export function dropCopy(copy: Buffer): void {
  if (own.has(copy.buffer)) giveBackSegment(Buffer.from(copy.buffer));
}

/** Whether this is (a part of) what `copyLent` keeps in a segment. */
export function isCopy(chunk: Buffer): boolean {
  return own.has(chunk.buffer);
}

/** Only what nobody reads or writes any more. */
export function giveBackSegment(segment: Buffer): void {
  if (segment.length === segmentBytes && pool.length < poolMax) pool.push(segment);
}

import * as fc from "fast-check";

/** One thing that must hold for whatever bytes come, with the generator of the bytes that are most likely to break it. */
export interface Target {
  readonly name: string;
  /** What holds. */
  readonly says: string;
  /** Its part of all cases, in relation to those of the others; dear ones have less. */
  readonly share: number;
  check(parameters: fc.Parameters<unknown>): Promise<fc.RunDetails<unknown>>;
}

export function target<Ts>(about: Pick<Target, "name" | "says" | "share">, property: fc.IRawProperty<Ts>): Target {
  return {
    ...about,
    check: async (parameters) =>
      (await fc.check(property, parameters as fc.Parameters<Ts>)) as unknown as fc.RunDetails<unknown>,
  };
}

/** Stops a case with what differs; fast-check then looks for the smallest input that still does. */
export function same(what: string, given: unknown, wanted: unknown): void {
  const a = JSON.stringify(given);
  const b = JSON.stringify(wanted);
  if (a !== b) throw new Error(`${what}\n  one:   ${a}\n  other: ${b}`);
}

/** Where a text of bytes is cut: into single bytes, or at up to eight places. */
export const cuts: fc.Arbitrary<readonly number[] | "everywhere"> = fc.oneof(
  { weight: 1, arbitrary: fc.constant("everywhere" as const) },
  { weight: 5, arbitrary: fc.array(fc.nat({ max: 4_000 }), { maxLength: 8 }) },
);

export function cutUp(bytes: Buffer, at: readonly number[] | "everywhere"): Buffer[] {
  if (at === "everywhere") {
    const size = bytes.length > 2_000 ? 13 : 1;
    return Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
      Buffer.from(bytes.subarray(i * size, (i + 1) * size)),
    );
  }
  const ends = [...at.map((cut) => (bytes.length === 0 ? 0 : cut % bytes.length)).sort((a, b) => a - b), bytes.length];
  // Each piece is a copy: whoever is fed owns it.
  return ends
    .map((end, i) => Buffer.from(bytes.subarray(i === 0 ? 0 : ends[i - 1], end)))
    .filter(({ length }) => length > 0);
}

type Edit = readonly [kind: number, at: number, byte: number];
const edits = fc.array(fc.tuple(fc.nat({ max: 3 }), fc.nat({ max: 4_000 }), fc.nat({ max: 255 })), { maxLength: 3 });
/** Bytes that parsers disagree about come more often than others. */
const sharp = Buffer.from('\r\n\0 \t:;,"\\#%/_\x7f\x80\xff0aA\x0b\x0c+-', "latin1");

function edited(bytes: Buffer, list: readonly Edit[]): Buffer {
  let out = bytes;
  for (const [kind, place, value] of list) {
    const at = out.length === 0 ? 0 : place % out.length;
    const byte = Buffer.from([value < 128 ? (sharp[value % sharp.length] as number) : value]);
    const before = out.subarray(0, at);
    if (kind === 0) out = Buffer.concat([before, byte, out.subarray(at + 1)]);
    else if (kind === 1) out = Buffer.concat([before, byte, out.subarray(at)]);
    else if (kind === 2) out = Buffer.concat([before, out.subarray(at + 1)]);
    else out = Buffer.concat([out.subarray(0, at), out.subarray(Math.max(0, at - (value % 24)))]);
  }
  return out;
}

/** The same bytes with up to three of them changed, put in, left out or said twice; half of them stay as they are. */
export function mutated(bytes: fc.Arbitrary<Buffer>): fc.Arbitrary<Buffer> {
  return fc
    .tuple(bytes, fc.oneof(fc.constant<readonly Edit[]>([]), edits))
    .map(([given, list]) => (list.length === 0 ? given : edited(given, list)));
}

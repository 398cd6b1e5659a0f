/**
 * The Huffman code of HPACK (RFC 7541, appendix B). It is canonical: codes of one length follow each other in the order
 * of their symbols, so the lengths alone say the whole code.
 */
const lengths: readonly number[] = [
  13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
  28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
  13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6,
  5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23,
  22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22,
  23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26,
  20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27,
  27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27,
  27, 27, 27, 26, 30,
];

const END_OF_STRING = 256;

/** What one nibble does in a state: bits 0-7 the symbol, 8 whether one comes out, 9 refused, 10-18 the next state. */
const EMITS = 1 << 8;
const REFUSED = 1 << 9;
const NEXT_SHIFT = 10;

interface Tree {
  /** Two entries per inner node: its children, -1 - symbol for a leaf. */
  readonly children: number[];
  /** Whether the bits from the root to this node may end a text: at most seven, all ones. */
  readonly mayEnd: boolean[];
}

function growTree(): Tree {
  const children: number[] = [0, 0];
  const mayEnd: boolean[] = [true];
  const bySize = lengths
    .map((_, symbol) => symbol)
    .sort((a, b) => (lengths[a] as number) - (lengths[b] as number) || a - b);
  let code = 0;
  let size = lengths[bySize[0] as number] as number;
  for (const symbol of bySize) {
    const length = lengths[symbol] as number;
    code = code * 2 ** (length - size);
    size = length;
    let node = 0;
    for (let bit = length - 1; bit >= 0; bit--) {
      const slot = node * 2 + (Math.floor(code / 2 ** bit) % 2);
      if (bit === 0) {
        children[slot] = -1 - symbol;
      } else {
        if (children[slot] === 0) {
          const depth = length - bit;
          children[slot] = mayEnd.length;
          mayEnd.push(depth <= 7 && (mayEnd[node] as boolean) && slot % 2 === 1);
          children.push(0, 0);
        }
        node = children[slot] as number;
      }
    }
    code++;
  }
  return { children, mayEnd };
}

const tree = growTree();

/** State × nibble: no code is shorter than five bits, so a nibble completes at most one symbol. */
const steps = new Uint32Array(tree.mayEnd.length * 16);
const endings = Uint8Array.from(tree.mayEnd, Number);

function fillSteps(): void {
  for (let state = 0; state < tree.mayEnd.length; state++) {
    for (let nibble = 0; nibble < 16; nibble++) steps[state * 16 + nibble] = step(state, nibble);
  }
}

function step(state: number, nibble: number): number {
  let node = state;
  let out = 0;
  for (let bit = 3; bit >= 0; bit--) {
    const child = tree.children[node * 2 + ((nibble >> bit) & 1)] as number;
    if (child >= 0) {
      node = child;
      continue;
    }
    const symbol = -1 - child;
    if (symbol === END_OF_STRING) return REFUSED;
    out = EMITS | symbol;
    node = 0;
  }
  return out | (node << NEXT_SHIFT);
}

fillSteps();

let scratch: Buffer = Buffer.allocUnsafeSlow(1024);

/**
 * The text that `length` Huffman bytes at `start` stand for, as latin1; undefined where padding is longer than seven
 * bits or not of ones, or the end-of-string code occurs (RFC 7541, 5.2).
 */
export function decodeHuffman(bytes: Buffer, start: number, length: number): string | undefined {
  if (scratch.length < length * 2) scratch = Buffer.allocUnsafeSlow(length * 2);
  const out = scratch;
  let size = 0;
  let state = 0;
  for (let at = start; at < start + length; at++) {
    const byte = bytes[at] as number;
    let did = steps[state * 16 + (byte >> 4)] as number;
    if ((did & (EMITS | REFUSED)) !== 0) {
      if ((did & REFUSED) !== 0) return undefined;
      out[size++] = did;
    }
    did = steps[(did >> NEXT_SHIFT) * 16 + (byte & 15)] as number;
    if ((did & (EMITS | REFUSED)) !== 0) {
      if ((did & REFUSED) !== 0) return undefined;
      out[size++] = did;
    }
    state = did >> NEXT_SHIFT;
  }
  return endings[state] === 1 ? out.toString("latin1", 0, size) : undefined;
}

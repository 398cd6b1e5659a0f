/** IP addresses and CIDR blocks (RFC 4291, RFC 4632), as 16-bit words: two for IPv4, eight for IPv6. */
export interface Block {
  readonly words: readonly number[];
  readonly bits: number;
}

/** Reads one address. An IPv4 address in IPv6's clothes (`::ffff:10.0.0.1`) is that IPv4 address; zones are dropped. */
export function parseAddress(text: string): readonly number[] | undefined {
  if (text.length > 64) return undefined;
  if (!text.includes(":")) return parseFour(text);
  const zone = text.indexOf("%");
  const words = parseSix(zone < 0 ? text : text.slice(0, zone));
  if (words === undefined) return undefined;
  const mapped = words[5] === 0xffff && words.slice(0, 5).every((word) => word === 0);
  return mapped ? words.slice(6) : words;
}

function parseFour(text: string): readonly number[] | undefined {
  const parts = text.split(".");
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) < 256))
    return undefined;
  const [a, b, c, d] = parts.map(Number) as [number, number, number, number];
  return [a * 256 + b, c * 256 + d];
}

function parseSix(text: string): readonly number[] | undefined {
  const [left, right, ...more] = text.split("::");
  if (left === undefined || more.length > 0) return undefined;
  const before = groups(left, right === undefined);
  if (before === undefined) return undefined;
  if (right === undefined) return before.length === 8 ? before : undefined;
  const after = groups(right, true);
  if (after === undefined || before.length + after.length > 7) return undefined;
  return [...before, ...Array.from({ length: 8 - before.length - after.length }, () => 0), ...after];
}

/** `a:b:c`, its last group as dotted IPv4 where `last` allows it. */
function groups(text: string, last: boolean): number[] | undefined {
  if (text === "") return [];
  const words: number[] = [];
  const parts = text.split(":");
  for (const [index, part] of parts.entries()) {
    if (part.includes(".")) {
      const four = last && index === parts.length - 1 ? parseFour(part) : undefined;
      if (four === undefined) return undefined;
      words.push(...four);
    } else {
      if (!/^[0-9A-Fa-f]{1,4}$/.test(part)) return undefined;
      words.push(Number.parseInt(part, 16));
    }
  }
  return words;
}

/** Reads `10.0.0.0/8`, `2001:db8::/32` or one address; a text says what is wrong. */
export function parseBlock(text: string): Block | string {
  const slash = text.indexOf("/");
  const address = slash < 0 ? text : text.slice(0, slash);
  if (address.includes("%")) return "a block has no zone";
  const words = parseAddress(address);
  if (words === undefined) return "it is neither an IP address nor a CIDR block";
  const most = words.length * 16;
  if (slash < 0) return { words, bits: most };
  const length = text.slice(slash + 1);
  if (!/^(0|[1-9]\d{0,2})$/.test(length)) return `its prefix length is not a number from 0 to ${most}`;
  // A block over mapped addresses counts its bits in IPv6's length.
  const bits = words.length === 2 && address.includes(":") ? Number(length) - 96 : Number(length);
  if (bits < 0 || bits > most) return `its prefix length is not a number from 0 to ${most}`;
  const block = { words, bits };
  return hasHostBits(block) ? "it has bits set behind its prefix" : block;
}

function hasHostBits(block: Block): boolean {
  return block.words.some((word, index) => (word & ~maskOf(block.bits - index * 16) & 0xffff) !== 0);
}

/** The mask of one word of which the first `bits` count. */
function maskOf(bits: number): number {
  if (bits <= 0) return 0;
  return bits >= 16 ? 0xffff : (0xffff << (16 - bits)) & 0xffff;
}

export function contains(block: Block, words: readonly number[]): boolean {
  if (words.length !== block.words.length) return false;
  for (let i = 0; i * 16 < block.bits; i++) {
    const mask = maskOf(block.bits - i * 16);
    if (((words[i] as number) & mask) !== ((block.words[i] as number) & mask)) return false;
  }
  return true;
}

/** Addresses that mean this machine, its own link, or nothing: 127/8, ::1, 169.254/16, fe80::/10, 0.0.0.0/8, ::. */
export function isLocal(words: readonly number[]): boolean {
  return localBlocks.some((block) => contains(block, words));
}

export function isLoopback(words: readonly number[]): boolean {
  return loopbackBlocks.some((block) => contains(block, words));
}

const loopbackBlocks: readonly Block[] = [
  { words: [0x7f00, 0], bits: 8 },
  { words: [0, 0, 0, 0, 0, 0, 0, 1], bits: 128 },
];
const localBlocks: readonly Block[] = [
  ...loopbackBlocks,
  { words: [0xa9fe, 0], bits: 16 },
  { words: [0xfe80, 0, 0, 0, 0, 0, 0, 0], bits: 10 },
  { words: [0, 0], bits: 8 },
  // Also what IPv6 once called "IPv4-compatible" (::127.0.0.1), which some stacks still dial as IPv4.
  { words: [0, 0, 0, 0, 0, 0, 0, 0], bits: 96 },
];

/** Who counts as one when shares and rates are given to addresses: one customer has a whole /64 of IPv6. */
export function shareOf(address: string): string {
  if (!address.includes(":")) return address;
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  if (mapped?.[1] !== undefined) return mapped[1];
  const [head = "", tail] = address.replace(/%.*$/, "").split("::");
  const left = head === "" ? [] : head.split(":");
  const right = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = tail === undefined ? 0 : Math.max(0, 8 - left.length - right.length);
  const groups = [...left, ...Array.from({ length: zeros }, () => "0"), ...right];
  return `${groups.slice(0, 4).join(":")}::/64`;
}

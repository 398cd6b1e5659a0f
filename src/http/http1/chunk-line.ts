import { hexValues, tokenBytes, valueBytes } from "./characters.ts";

/**
 * The line before each chunk, one byte at a time: hexadecimal digits, extensions (parsed strictly and ignored), CRLF
 * (RFC 9112, 7.1). White space is refused although the grammar tolerates it as "bad".
 */
export const chunkLines = { more: 0, done: 1, failed: 2 } as const;
export type ChunkLineResult = (typeof chunkLines)[keyof typeof chunkLines];

const digitsMax = 12; // 16^12 is 256 TiB, and still an exact number.
const steps = {
  size: 0,
  extensionName: 1,
  extensionValue: 2,
  token: 3,
  quoted: 4,
  escaped: 5,
  quotedEnd: 6,
  lf: 7,
} as const;

export class ChunkLine {
  size = 0;
  #digits = 0;
  #step: number = steps.size;
  #nameLength = 0;
  #extensionBytes = 0;
  readonly #extensionBytesMax: number;

  constructor(extensionBytesMax: number) {
    this.#extensionBytesMax = extensionBytesMax;
  }

  /** Before the first chunk of each message. */
  startMessage(): void {
    this.#extensionBytes = 0;
    this.startLine();
  }

  startLine(): void {
    this.size = 0;
    this.#digits = 0;
    this.#step = steps.size;
  }

  take(byte: number): ChunkLineResult {
    if (this.#step === steps.size) {
      const digit = hexValues[byte] as number;
      if (digit < 16) {
        this.size = this.size * 16 + digit;
        return ++this.#digits > digitsMax ? chunkLines.failed : chunkLines.more;
      }
      return this.#digits === 0 ? chunkLines.failed : this.#afterPart(byte);
    }
    if (this.#step === steps.lf) return byte === 10 ? chunkLines.done : chunkLines.failed;
    if (++this.#extensionBytes > this.#extensionBytesMax) return chunkLines.failed;
    return this.#extension(byte);
  }

  /** What may stand behind the size, a name, a token or a quoted string. */
  #afterPart(byte: number): ChunkLineResult {
    if (byte === 13) this.#step = steps.lf;
    else if (byte === 59) {
      this.#step = steps.extensionName;
      this.#nameLength = 0;
    } else return chunkLines.failed;
    return chunkLines.more;
  }

  #extension(byte: number): ChunkLineResult {
    switch (this.#step) {
      case steps.extensionName:
        if (tokenBytes[byte] === 1) this.#nameLength++;
        else if (this.#nameLength === 0) return chunkLines.failed;
        else if (byte === 61) this.#step = steps.extensionValue;
        else return this.#afterPart(byte);
        return chunkLines.more;
      case steps.extensionValue:
        if (byte === 34) this.#step = steps.quoted;
        else if (tokenBytes[byte] === 1) this.#step = steps.token;
        else return chunkLines.failed;
        return chunkLines.more;
      case steps.token:
        return tokenBytes[byte] === 1 ? chunkLines.more : this.#afterPart(byte);
      case steps.quoted:
        if (valueBytes[byte] !== 1) return chunkLines.failed;
        if (byte === 34) this.#step = steps.quotedEnd;
        else if (byte === 92) this.#step = steps.escaped;
        return chunkLines.more;
      case steps.escaped:
        this.#step = steps.quoted;
        return valueBytes[byte] === 1 ? chunkLines.more : chunkLines.failed;
      default:
        return this.#afterPart(byte);
    }
  }
}

import { refuse, type Refusal } from "../base/errors.ts";

/**
 * JSON lines out of chunks of bytes, with a cap: a peer that never ends its line costs `lineBytesMax` and no more.
 * After a refusal the reader stays refused, because where the next line starts is unknown.
 */
export class LineReader {
  readonly #lineBytesMax: number;
  #parts: Buffer[] = [];
  #length = 0;
  #refusal: Refusal | undefined;

  constructor(lineBytesMax: number) {
    this.#lineBytesMax = lineBytesMax;
  }

  /** Bytes of the line that has not ended yet. */
  get pendingBytes(): number {
    return this.#length;
  }

  /** The lines that this chunk completes, without their ends; empty ones too, because they are no messages and cost time. */
  push(chunk: Buffer): readonly string[] | Refusal {
    if (this.#refusal !== undefined) return this.#refusal;
    const lines: string[] = [];
    let from = 0;
    for (;;) {
      const end = chunk.indexOf(0x0a, from);
      const until = end < 0 ? chunk.length : end;
      if (this.#length + until - from > this.#lineBytesMax) return this.#refuse();
      if (until > from) this.#keep(chunk.subarray(from, until));
      if (end < 0) return lines;
      lines.push(this.#take());
      from = end + 1;
    }
  }

  #keep(part: Buffer): void {
    this.#parts.push(part);
    this.#length += part.length;
    // Chunks of one byte must not cost a buffer each for ever.
    if (this.#parts.length >= 1_024) this.#parts = [Buffer.concat(this.#parts)];
  }

  #take(): string {
    const [only] = this.#parts;
    const line = this.#parts.length === 1 && only !== undefined ? only : Buffer.concat(this.#parts);
    this.#parts = [];
    this.#length = 0;
    return line.toString("utf8").trim();
  }

  #refuse(): Refusal {
    this.#parts = [];
    this.#length = 0;
    this.#refusal = refuse(
      "MESSAGE_INVALID",
      `Cannot read the stream: a line is longer than ${this.#lineBytesMax} bytes`,
      "Compare the Hauberk releases of both ends",
    );
    return this.#refusal;
  }
}

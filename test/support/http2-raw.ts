import type { Duplex } from "node:stream";
import * as frames from "../../src/http/http2/frames.ts";

/** Frames by hand, for tests that send what no client would. */

export interface RawFrame {
  type: number;
  flags: number;
  streamId: number;
  payload: Buffer;
}

export function rawFrame(
  type: number,
  flags: number,
  streamId: number,
  payload: Buffer | string | number[] = [],
): Buffer {
  const body =
    typeof payload === "string" ? Buffer.from(payload.replaceAll(" ", ""), "hex") : Buffer.from(payload as number[]);
  const head = Buffer.alloc(9);
  head.writeUIntBE(body.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(streamId, 5);
  return Buffer.concat([head, body]);
}

export function uint32(value: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeUInt32BE(value);
  return out;
}

/** A field as a literal that no table keeps; names and values up to 126 bytes. */
function rawField(name: string, value: string): Buffer {
  const n = Buffer.from(name, "latin1");
  const v = Buffer.from(value, "latin1");
  return Buffer.concat([Buffer.from([0, n.length]), n, Buffer.from([v.length]), v]);
}

export function rawFields(fields: readonly string[]): Buffer {
  const out: Buffer[] = [];
  for (let i = 0; i < fields.length; i += 2) out.push(rawField(fields[i] as string, fields[i + 1] as string));
  return Buffer.concat(out);
}

export const rawPreface: Buffer = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1");

/** One end of a connection, spoken by hand. */
export class RawPeer {
  readonly frames: RawFrame[] = [];
  readonly socket: Duplex;
  closed = false;
  #bytes: Buffer = Buffer.alloc(0);
  #skip: number;
  #waiters: (() => void)[] = [];

  /** `skip` bytes are not frames: 24 where this is a server and a client's preface comes first. */
  constructor(socket: Duplex, skip = 0) {
    this.socket = socket;
    this.#skip = skip;
    socket.on("data", (chunk: Buffer) => {
      this.#bytes = Buffer.concat([this.#bytes, chunk]);
      this.#parse();
      this.#wake();
    });
    const close = (): void => {
      this.closed = true;
      this.#wake();
    };
    socket.on("end", close);
    socket.on("close", close);
    socket.on("error", close);
  }

  send(...parts: Buffer[]): this {
    this.socket.write(Buffer.concat(parts));
    return this;
  }

  /** Resolves when `condition` holds; it is asked again after each arrival. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      if (this.closed) throw new Error(`closed before it held; got ${this.said()}`);
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
  }

  async frame(matches: (frame: RawFrame) => boolean): Promise<RawFrame> {
    await this.until(() => this.frames.some(matches));
    return this.frames.find(matches) as RawFrame;
  }

  /** Resolves when the other side has ended. */
  async end(): Promise<void> {
    while (!this.closed) await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }

  /** What came, in short: `1:4/8` is RST_STREAM on stream 1 with code 8. */
  said(): string {
    return this.frames
      .map(({ type, streamId, payload, flags }) => {
        if (type === 3) return `RST ${streamId} ${payload.readUInt32BE(0)}`;
        if (type === 7) return `GOAWAY ${payload.readUInt32BE(0)} ${payload.readUInt32BE(4)}`;
        return `${type}/${flags} on ${streamId} (${payload.length})`;
      })
      .join(", ");
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter();
  }

  #parse(): void {
    const skipped = Math.min(this.#skip, this.#bytes.length);
    this.#skip -= skipped;
    this.#bytes = this.#bytes.subarray(skipped);
    while (this.#bytes.length >= 9) {
      const length = this.#bytes.readUIntBE(0, 3);
      if (this.#bytes.length < 9 + length) return;
      this.frames.push({
        type: this.#bytes[3] as number,
        flags: this.#bytes[4] as number,
        streamId: this.#bytes.readUInt32BE(5) & 0x7fff_ffff,
        payload: this.#bytes.subarray(9, 9 + length),
      });
      this.#bytes = this.#bytes.subarray(9 + length);
    }
  }
}

/** How the other side judged what was sent to it: by GOAWAY, by RST_STREAM on this stream, or not at all. */
export async function verdictOf(peer: RawPeer, streamId: number): Promise<string> {
  peer.send(rawFrame(frames.PING, 0, 0, "ffffffffffffffff"));
  await Promise.race([
    peer.end(),
    peer
      .until(() => peer.frames.some((frame) => frame.type === frames.PING && frame.payload[0] === 0xff))
      .catch(() => undefined),
  ]);
  const goaway = peer.frames.find((frame) => frame.type === frames.GOAWAY);
  if (goaway !== undefined) return `connection ${frames.errorName(goaway.payload.readUInt32BE(4))}`;
  const reset = peer.frames.find((frame) => frame.type === frames.RST_STREAM && frame.streamId === streamId);
  if (reset !== undefined) return `stream ${frames.errorName(reset.payload.readUInt32BE(0))}`;
  return "fine";
}

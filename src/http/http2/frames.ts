/** The frames of HTTP/2 (RFC 9113, sections 4 and 6): their numbers, and how each is written. */

export const DATA = 0x0;
export const HEADERS = 0x1;
export const PRIORITY = 0x2;
export const RST_STREAM = 0x3;
export const SETTINGS = 0x4;
export const PUSH_PROMISE = 0x5;
export const PING = 0x6;
export const GOAWAY = 0x7;
export const WINDOW_UPDATE = 0x8;
export const CONTINUATION = 0x9;
/** An extension of ours: a renewed certificate (docs/decisions/0010). Of the range that is left for experiments (RFC 7540, 11.2). */
export const PROOF = 0xf5;

export const END_STREAM = 0x1;
export const ACK = 0x1;
export const END_HEADERS = 0x4;
export const PADDED = 0x8;
export const WITH_PRIORITY = 0x20;

export const NO_ERROR = 0x0;
export const PROTOCOL_ERROR = 0x1;
export const INTERNAL_ERROR = 0x2;
export const FLOW_CONTROL_ERROR = 0x3;
export const SETTINGS_TIMEOUT = 0x4;
export const STREAM_CLOSED = 0x5;
export const FRAME_SIZE_ERROR = 0x6;
export const REFUSED_STREAM = 0x7;
export const CANCEL = 0x8;
export const COMPRESSION_ERROR = 0x9;
/** Never said by us; the table is whole. @public */
export const CONNECT_ERROR = 0xa;
export const ENHANCE_YOUR_CALM = 0xb;
export const INADEQUATE_SECURITY = 0xc;

const errorNames: readonly string[] = [
  "NO_ERROR",
  "PROTOCOL_ERROR",
  "INTERNAL_ERROR",
  "FLOW_CONTROL_ERROR",
  "SETTINGS_TIMEOUT",
  "STREAM_CLOSED",
  "FRAME_SIZE_ERROR",
  "REFUSED_STREAM",
  "CANCEL",
  "COMPRESSION_ERROR",
  "CONNECT_ERROR",
  "ENHANCE_YOUR_CALM",
  "INADEQUATE_SECURITY",
  "HTTP_1_1_REQUIRED",
];

/** For logs: the name of an error code, or its number. */
export function errorName(code: number): string {
  return errorNames[code] ?? `error ${code}`;
}

export const FRAME_HEAD_BYTES = 9;
/** The largest payload that is neither announced nor sent larger: the least that every peer takes (RFC 9113, 4.2). */
export const PAYLOAD_MAX = 16_384;
export const WINDOW_MAX = 0x7fff_ffff;
export const STREAM_ID_MAX = 0x7fff_ffff;
/** Every window's size before any setting or update (RFC 9113, 6.9.2). */
export const WINDOW_DEFAULT = 65_535;

/** What a client says first (RFC 9113, 3.4). */
export const preface: Buffer = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1");

export function writeFrameHead(out: Buffer, at: number, payload: number, typeAndFlags: number, streamId: number): void {
  out[at] = payload >>> 16;
  out[at + 1] = payload >>> 8;
  out[at + 2] = payload;
  out[at + 3] = typeAndFlags >>> 8;
  out[at + 4] = typeAndFlags;
  writeUint32(out, at + 5, streamId);
}

/** A frame of the connection as a whole. */
export function wholeFrame(typeAndFlags: number, payload: Buffer): Buffer {
  const frame = Buffer.allocUnsafe(FRAME_HEAD_BYTES + payload.length);
  writeFrameHead(frame, 0, payload.length, typeAndFlags, 0);
  payload.copy(frame, FRAME_HEAD_BYTES);
  return frame;
}

export function writeUint32(out: Buffer, at: number, value: number): void {
  out[at] = value >>> 24;
  out[at + 1] = value >>> 16;
  out[at + 2] = value >>> 8;
  out[at + 3] = value;
}

export function readUint32(bytes: Buffer, at: number): number {
  return (
    (((bytes[at] as number) << 24) |
      ((bytes[at + 1] as number) << 16) |
      ((bytes[at + 2] as number) << 8) |
      (bytes[at + 3] as number)) >>>
    0
  );
}

import {
  FLOW_CONTROL_ERROR,
  FRAME_HEAD_BYTES,
  PAYLOAD_MAX,
  PROTOCOL_ERROR,
  SETTINGS,
  WINDOW_MAX,
  readUint32,
  writeFrameHead,
  writeUint32,
} from "./frames.ts";

/** Settings by number (RFC 9113, 6.5.2; RFC 8441, 3). */
export const HEADER_TABLE_SIZE = 1;
export const ENABLE_PUSH = 2;
export const MAX_CONCURRENT_STREAMS = 3;
export const INITIAL_WINDOW_SIZE = 4;
const MAX_FRAME_SIZE = 5;
export const MAX_HEADER_LIST_SIZE = 6;
export const ENABLE_CONNECT_PROTOCOL = 8;

/**
 * The highest version of certificate proofs that an end takes: 1, or absent (docs/decisions/0010). Of the range that is
 * left for experiments (RFC 7540, 11.3).
 */
export const CERTIFICATE_PROOFS = 0xf9b5;

const SETTING_BYTES = 6;

/** A SETTINGS frame of these numbers and values, in this order. */
export function settingsFrame(settings: readonly (readonly [number, number])[]): Buffer {
  const frame = Buffer.alloc(FRAME_HEAD_BYTES + settings.length * SETTING_BYTES);
  writeFrameHead(frame, 0, settings.length * SETTING_BYTES, SETTINGS << 8, 0);
  let at = FRAME_HEAD_BYTES;
  for (const [setting, value] of settings) {
    frame[at] = setting >>> 8;
    frame[at + 1] = setting;
    writeUint32(frame, at + 2, value);
    at += SETTING_BYTES;
  }
  return frame;
}

/** Calls `take` for each setting of a payload, in order; an unknown one too, which the taker ignores. */
export function readSettings(
  bytes: Buffer,
  start: number,
  end: number,
  take: (setting: number, value: number) => void,
): void {
  for (let at = start; at < end; at += SETTING_BYTES) {
    take(((bytes[at] as number) << 8) | (bytes[at + 1] as number), readUint32(bytes, at + 2));
  }
}

/** The error code that a value outside of its bounds calls for; 0 where it is fine. */
export function settingError(setting: number, value: number): number {
  switch (setting) {
    case ENABLE_PUSH:
    case ENABLE_CONNECT_PROTOCOL:
      return value > 1 ? PROTOCOL_ERROR : 0;
    case INITIAL_WINDOW_SIZE:
      return value > WINDOW_MAX ? FLOW_CONTROL_ERROR : 0;
    case MAX_FRAME_SIZE:
      return value < PAYLOAD_MAX || value > 0xff_ffff ? PROTOCOL_ERROR : 0;
    default:
      return 0;
  }
}

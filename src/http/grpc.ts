import { failures, type Refusal } from "../base/errors.ts";
import type { Fields } from "./message.ts";

/** What a proxy has to know of gRPC over HTTP/2 (grpc/grpc, doc/PROTOCOL-HTTP2.md): its content type, its deadlines, its statuses. */

const type = "application/grpc";

/** `application/grpc`, also with a suffix such as `+proto`; not `application/grpc-web`, whose clients read HTTP. */
export function isGrpcType(contentType: string): boolean {
  if (contentType.length < type.length) return false;
  if (!contentType.startsWith(type) && contentType.slice(0, type.length).toLowerCase() !== type) return false;
  if (contentType.length === type.length) return true;
  const next = contentType.charAt(type.length);
  return next === "+" || next === ";" || next === " ";
}

/** Milliseconds in each unit of a timeout. */
const units: Readonly<Record<string, number>> = {
  H: 3_600_000,
  M: 60_000,
  S: 1_000,
  m: 1,
  u: 0.001,
  n: 0.000_001,
};
const timeoutForm = /^[0-9]{1,8}[HMSmun]$/;

/** The value of grpc-timeout in milliseconds, a fraction where it is below one; undefined where it is none. */
export function readGrpcTimeoutMs(text: string): number | undefined {
  if (!timeoutForm.test(text)) return undefined;
  const last = text.length - 1;
  return Number(text.slice(0, last)) * (units[text.charAt(last)] as number);
}

const digitsMax = 99_999_999;

/** The shortest grpc-timeout that is not sooner than `ms`; at least one unit, because 0 is no time at all. */
export function grpcTimeoutText(ms: number): string {
  const whole = Math.max(1, Math.ceil(ms));
  if (whole <= digitsMax) return `${whole}m`;
  const seconds = Math.ceil(whole / 1_000);
  return seconds <= digitsMax ? `${seconds}S` : `${Math.min(digitsMax, Math.ceil(seconds / 3_600))}H`;
}

/** The fields that end a call which Hauberk ends itself: as trailers, or behind a content type as its whole answer. */
export function grpcStatusFields(refusal: Refusal): Fields {
  return [
    "grpc-status",
    String(failures[refusal.code].grpc),
    "grpc-message",
    percentEncoded(`${refusal.message}. ${refusal.hint}`),
    "x-hauberk-code",
    refusal.code,
  ];
}

/** The fields of a response that is nothing but its trailers; they stand in its one HEADERS frame, which ends the stream. */
export function grpcOnlyFields(refusal: Refusal): Fields {
  return ["content-type", type, ...grpcStatusFields(refusal)];
}

/** As the gRPC protocol wants messages: space to tilde as they are, but for "%", all else as %XX of UTF-8. */
function percentEncoded(text: string): string {
  let out = "";
  for (const byte of Buffer.from(text, "utf8")) {
    out +=
      byte >= 0x20 && byte <= 0x7e && byte !== 0x25
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  return out;
}

import { failures, type FailureCode, type Refusal } from "../base/errors.ts";
import type { Fields, RequestHead } from "../http/message.ts";
import { fieldOf } from "../http/message.ts";
import type { ServerExchange } from "../transport/exchange.ts";

/**
 * Answers that Hauberk makes itself (DESIGN, section 6): `x-hauberk-code`, and code, sentence, hint and request id as JSON;
 * for gRPC a trailers-only response with the status of the same row. Nothing in them comes from an endpoint.
 */
export function sendAnswer(exchange: ServerExchange, refusal: Refusal, requestId: string): void {
  const head = exchange.head;
  if (isGrpc(head)) {
    exchange.respond({ status: 200, fields: grpcFields(refusal, requestId), bodyLength: 0 }, true);
    return;
  }
  const { status } = failures[refusal.code];
  const body = Buffer.from(`${JSON.stringify(contentOf(refusal, requestId))}\n`, "utf8");
  const fields = plainFields(refusal.code, requestId);
  if (head.method === "HEAD") {
    exchange.respond({ status, fields, bodyLength: 0 }, true);
    return;
  }
  exchange.respond({ status, fields, bodyLength: body.length }, false);
  exchange.write(body);
  exchange.end();
}

/** The status that `code` has over HTTP, for counters and logs. */
export function statusOf(code: FailureCode): number {
  return failures[code].status;
}

function contentOf(refusal: Refusal, requestId: string): object {
  return { code: refusal.code, message: refusal.message, hint: refusal.hint, requestId };
}

function plainFields(code: FailureCode, requestId: string): Fields {
  const fields: Fields = [
    "content-type",
    "application/json",
    "x-hauberk-code",
    code,
    "x-request-id",
    requestId,
    "cache-control",
    "no-store",
  ];
  // RFC 9110, 11.6.1 and 11.7.1: a 401 and a 407 name what would be accepted.
  if (code === "JWT_MISSING") fields.push("www-authenticate", "Bearer");
  if (code === "JWT_INVALID") fields.push("www-authenticate", 'Bearer error="invalid_token"');
  if (code === "PROXY_SECRET_WRONG") fields.push("proxy-authenticate", 'Basic realm="hauberk"');
  return fields;
}

/** Trailers-Only (gRPC over HTTP/2): one HEADERS frame that ends the stream. */
function grpcFields(refusal: Refusal, requestId: string): Fields {
  return [
    "content-type",
    "application/grpc",
    "grpc-status",
    String(failures[refusal.code].grpc),
    "grpc-message",
    percentEncoded(`${refusal.message}. ${refusal.hint}`),
    "x-hauberk-code",
    refusal.code,
    "x-request-id",
    requestId,
  ];
}

/** `application/grpc`, also with a suffix such as `+proto`; not `application/grpc-web`, whose clients read HTTP. */
function isGrpc(head: RequestHead): boolean {
  const type = fieldOf(head.fields, "content-type");
  if (type === undefined || !/^application\/grpc/i.test(type)) return false;
  const next = type.charAt("application/grpc".length);
  return next === "" || next === "+" || next === ";" || next === " ";
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

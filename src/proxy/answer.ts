import { failures, type FailureCode, type Refusal } from "../base/errors.ts";
import { grpcOnlyFields, grpcStatusFields, isGrpcType } from "../http/grpc.ts";
import type { Fields, RequestHead, ResponseHead } from "../http/message.ts";
import { fieldOf } from "../http/message.ts";
import type { ServerExchange } from "../transport/exchange.ts";

/**
 * Answers that Hauberk makes itself (DESIGN, section 6): `x-hauberk-code`, and code, sentence, hint and request id as JSON;
 * for gRPC a trailers-only response with the status of the same row. Nothing in them comes from an endpoint.
 */
export function sendAnswer(exchange: ServerExchange, refusal: Refusal, requestId: string): void {
  const head = exchange.head;
  if (isGrpc(head)) {
    const fields = grpcOnlyFields(refusal);
    fields.push("x-request-id", requestId);
    exchange.respond({ status: 200, fields, bodyLength: 0 }, true);
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

/**
 * Ends an answer whose head is out and whose rest will not come. A gRPC client is told in trailers, with the status of the
 * same row, because it takes a reset for a fault of the connection; for everybody else only the cut says that something is
 * missing. `began` is the head that went out.
 */
export function cutAnswer(exchange: ServerExchange, refusal: Refusal, began: ResponseHead | undefined): void {
  const told =
    began !== undefined &&
    began.status === 200 &&
    began.bodyLength < 0 &&
    exchange.connection.protocol === "h2" &&
    isGrpcType(fieldOf(began.fields, "content-type") ?? "");
  if (told) exchange.end(grpcStatusFields(refusal));
  // What was up to whoever asked, such as a policy that denies it now, is no fault of this side.
  else exchange.abort({ kind: statusOf(refusal.code) < 500 ? "cancelled" : "lost", because: refusal.message });
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

function isGrpc(head: RequestHead): boolean {
  return isGrpcType(fieldOf(head.fields, "content-type") ?? "");
}

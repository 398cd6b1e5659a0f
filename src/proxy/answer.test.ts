import { expect, test } from "vitest";
import { fakeExchange } from "../../test/support/exchanges.ts";
import { failures, refuse, type FailureCode } from "../base/errors.ts";
import { fieldOf } from "../http/message.ts";
import { sendAnswer } from "./answer.ts";

/** The table of DESIGN, section 6. */
const table: [FailureCode, number, number][] = [
  ["SERVICE_UNKNOWN", 404, 12],
  ["JWT_MISSING", 401, 16],
  ["JWT_INVALID", 401, 16],
  ["DENIED", 403, 7],
  ["JWT_KEYS_UNAVAILABLE", 503, 14],
  ["NO_ENDPOINT", 503, 14],
  ["NO_HEALTHY_ENDPOINT", 503, 14],
  ["BREAKER_OPEN", 503, 14],
  ["LIMIT_REQUESTS", 503, 14],
  ["LIMIT_CONNECTIONS", 503, 14],
  ["UPSTREAM_LOST", 502, 14],
  ["DEADLINE_EXCEEDED", 504, 4],
  ["NOT_IN_MESH", 421, 12],
];

const refusal = (code: FailureCode) => refuse(code, 'Cannot do "it": it is 100 % käputt', "Mend it");

test.each(table)("%s is %i over HTTP and %i over gRPC", (code, status, grpc) => {
  const plain = fakeExchange();
  sendAnswer(plain.exchange, refusal(code), "id-1");
  expect(plain.head?.status).toBe(status);
  expect(fieldOf(plain.head?.fields ?? [], "x-hauberk-code")).toBe(code);
  expect(JSON.parse(plain.text())).toEqual({
    code,
    message: refusal(code).message,
    hint: "Mend it",
    requestId: "id-1",
  });
  expect(plain.head?.bodyLength).toBe(Buffer.byteLength(plain.text()));
  expect(plain.over).toBe("ended");

  const call = fakeExchange({ method: "POST", fields: ["content-type", "application/grpc+proto"] });
  sendAnswer(call.exchange, refusal(code), "id-1");
  expect(call.head?.status).toBe(200);
  expect(fieldOf(call.head?.fields ?? [], "grpc-status")).toBe(String(grpc));
  expect(fieldOf(call.head?.fields ?? [], "grpc-message")).toBe('Cannot do "it": it is 100 %25 k%C3%A4putt. Mend it');
  expect(fieldOf(call.head?.fields ?? [], "content-type")).toBe("application/grpc");
  expect(call.text()).toBe("");
  expect(call.over).toBe("ended");
});

test("HEAD gets the head alone; a 401 and a 407 name what would be accepted", () => {
  const head = fakeExchange({ method: "HEAD" });
  sendAnswer(head.exchange, refusal("DENIED"), "i");
  expect([head.head?.status, head.text(), head.over]).toEqual([403, "", "ended"]);
  const missing = fakeExchange();
  sendAnswer(missing.exchange, refusal("JWT_MISSING"), "i");
  expect(fieldOf(missing.head?.fields ?? [], "www-authenticate")).toBe("Bearer");
  const secret = fakeExchange();
  sendAnswer(secret.exchange, refusal("PROXY_SECRET_WRONG"), "i");
  expect(fieldOf(secret.head?.fields ?? [], "proxy-authenticate")).toMatch(/^Basic/);
});

test("gRPC-Web and look-alikes get plain answers", () => {
  for (const type of ["application/grpc-web", "application/grpcx", "text/plain"]) {
    const plain = fakeExchange({ fields: ["content-type", type] });
    sendAnswer(plain.exchange, refusal("DENIED"), "i");
    expect(plain.head?.status).toBe(failures.DENIED.status);
  }
});

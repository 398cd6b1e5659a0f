import { failures, refuse, type FailureCode, type Refusal } from "../base/errors.ts";
import type { Fields } from "../http/message.ts";
import { responseHeadText } from "../http/http1/write.ts";

type Sentence = readonly [cannot: string, hint: string];

const invalid: Sentence = ["read the request", "Send one HTTP/1.1 request as RFC 9112 frames it"];
const sentences: Partial<Record<FailureCode, Sentence>> = {
  HEADERS_TOO_LARGE: ["read the request", "Send fewer or shorter header fields"],
  REQUEST_TIMEOUT: ["wait for the request any longer", "Send it again, without pauses"],
  PROXY_SECRET_WRONG: ["take the request", "Use the proxy URL that hauberk run put into the environment"],
  UPSTREAM_INVALID: ["pass the answer on", "Look at what the called service answers"],
  BUG: ["answer the request", "Report this with the sidecar's log"],
};

/** The sentence and the next step for what the connection itself refuses, before there is a request to hand on. */
export function connectionRefusal(code: FailureCode, because: string): Refusal {
  const [cannot, hint] = sentences[code] ?? invalid;
  return refuse(code, `Cannot ${cannot}: ${because}`, hint);
}

/** A whole answer that ends its connection. */
export function refusalText(refusal: Refusal, more: Fields = []): string {
  // The hint and the message are ASCII: latin1 writes them as they are.
  const body = JSON.stringify({ code: refusal.code, message: refusal.message, hint: refusal.hint });
  const head = {
    status: failures[refusal.code].status,
    fields: ["content-type", "application/json", "x-hauberk-code", refusal.code, ...more],
    bodyLength: body.length,
  };
  const framing = { bodyless: false, bodyLength: body.length, old: false, persistent: false };
  return (responseHeadText(head, framing) ?? "") + body;
}

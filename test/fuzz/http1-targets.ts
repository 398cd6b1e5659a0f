import * as fc from "fast-check";
import type { Fields } from "../../src/http/message.ts";
import { beyond, kindOfRefusal } from "./http1-beyond.ts";
import { requestStream, responseStream } from "./http1-streams.ts";
import {
  llhttpRequests,
  llhttpResponses,
  ourRequests,
  ourResponses,
  type Message,
  type Reading,
} from "./read-http1.ts";
import { cutUp, cuts, same, target, type Target } from "./target.ts";

const askedBy = fc.constantFrom("GET", "HEAD", "POST");

/** How much of a refused message's body was told before the refusal is not part of the contract. */
function comparable({ messages, failed }: Reading): unknown {
  return {
    messages: messages.map((one) => (one.ended || failed === undefined ? one : { ...one, body: "" })),
    failed: failed !== undefined,
  };
}

const copied = (bytes: Buffer): Buffer[] => [Buffer.from(bytes)];

/** What llhttp tells and we do not, because it belongs to the hop or is not passed on. */
const ownNames =
  /^(?:te|host|upgrade|trailer|connection|keep-alive|content-length|http2-settings|proxy-connection|transfer-encoding)$/i;

function passedOn(fields: Fields): Fields {
  const named = new Set<string>();
  for (let i = 0; i < fields.length; i += 2) {
    if ((fields[i] as string).toLowerCase() !== "connection") continue;
    for (const option of (fields[i + 1] as string).split(",")) named.add(option.trim().toLowerCase());
  }
  const kept: Fields = [];
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i] as string;
    if (!ownNames.test(name) && !named.has(name.toLowerCase())) kept.push(name, fields[i + 1] as string);
  }
  return kept;
}

/** Every message that we take is taken by llhttp, and it is the same one. */
function accepted(ours: Reading, llhttp: Reading): void {
  for (const [i, one] of ours.messages.entries()) {
    const other = llhttp.messages[i];
    if (other === undefined)
      throw new Error(
        `we take message ${i}, llhttp does not: ${llhttp.failed ?? "it waits"}\n  ${JSON.stringify(one)}`,
      );
    same(`message ${i}`, outline(one), outline(other));
    if (!other.body.startsWith(one.body))
      throw new Error(
        `the body of message ${i}: we read ${JSON.stringify(one.body)}, llhttp ${JSON.stringify(other.body)}`,
      );
    // node:http reads on where nobody listens for an upgrade; its parser alone stops.
    if (other.tunnel) return;
    if (!one.ended) continue;
    if (!other.ended && !one.tunnel)
      throw new Error(`message ${i} ends for us, and not for llhttp: ${llhttp.failed ?? "it waits"}`);
    if (one.body.length !== other.body.length && !one.tunnel)
      throw new Error(
        `the body of message ${i}: we read ${JSON.stringify(one.body)}, llhttp ${JSON.stringify(other.body)}`,
      );
    const theirs = new Set<string>();
    for (let at = 0; at < other.trailers.length; at += 2)
      theirs.add(`${other.trailers[at]}: ${other.trailers[at + 1]}`);
    for (let at = 0; at < one.trailers.length; at += 2) {
      if (!theirs.has(`${one.trailers[at]}: ${one.trailers[at + 1]}`))
        throw new Error(`a trailer that llhttp does not see: ${one.trailers[at]}`);
    }
  }
}

function outline(message: Message): unknown {
  const { start, target: path, fields } = message;
  // We split an absolute form into authority and path.
  const own = path.replace(/^https?:\/\/[^/?]*/i, "").replace(/^(?=\?)/, "/");
  const where = start === "CONNECT" ? "" : own === "" ? (start === "OPTIONS" ? "*" : "/") : own;
  return { start, where: message.target === "" ? "" : where, fields: passedOn(fields) };
}

/** Where we refuse and llhttp does not, docs/HTTP1.md says so: the reason must be one that the page knows. */
function documented(ours: Reading, llhttp: Reading): void {
  if (ours.failed === undefined || llhttp.failed !== undefined) return;
  // Behind a head that asks for an upgrade, llhttp alone reads nothing: what we refuse there it has not taken.
  if (llhttp.messages.at(-1)?.tunnel === true && ours.messages.length >= llhttp.messages.length) return;
  const kind = kindOfRefusal(ours.failed);
  if (!beyond.has(kind)) throw new Error(`we refuse what llhttp takes, and docs/HTTP1.md does not say so: ${kind}`);
}

export const http1Targets: readonly Target[] = [
  target(
    { name: "http1-requests-cut", says: "HTTP/1 requests cut anywhere are read as when whole", share: 25 },
    fc.property(requestStream, cuts, (bytes, at) => {
      same("whole and cut", comparable(ourRequests(cutUp(bytes, at))), comparable(ourRequests(copied(bytes))));
    }),
  ),
  target(
    { name: "http1-responses-cut", says: "HTTP/1 answers cut anywhere are read as when whole", share: 15 },
    fc.property(responseStream, cuts, askedBy, (bytes, at, method) => {
      same(
        "whole and cut",
        comparable(ourResponses(method, cutUp(bytes, at))),
        comparable(ourResponses(method, copied(bytes))),
      );
    }),
  ),
  target(
    {
      name: "http1-requests-llhttp",
      says: "no HTTP/1 request is taken that llhttp refuses or reads otherwise",
      share: 20,
    },
    fc.property(requestStream, (bytes) => {
      const ours = ourRequests(copied(bytes));
      const llhttp = llhttpRequests(bytes);
      accepted(ours, llhttp);
      documented(ours, llhttp);
    }),
  ),
  target(
    {
      name: "http1-responses-llhttp",
      says: "no HTTP/1 answer is taken that llhttp refuses or reads otherwise",
      share: 12,
    },
    fc.property(responseStream, askedBy, (bytes, method) => {
      const ours = ourResponses(method, copied(bytes));
      const llhttp = llhttpResponses(method, bytes);
      accepted(ours, llhttp);
      documented(ours, llhttp);
    }),
  ),
];

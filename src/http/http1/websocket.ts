import { createHash } from "node:crypto";
import type { Fields } from "../message.ts";
import { sameName } from "./characters.ts";

/**
 * The part of the WebSocket handshake that belongs to one HTTP/1.1 connection and never crosses another (RFC 6455, 1.3 and
 * RFC 8441, 5): a key, and the answer that only somebody gives who read it as such.
 */
export const keyBytes = 16;

const keyForm = /^[A-Za-z0-9+/]{22}==$/;
const answerSuffix = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/** Whether `text` is 16 bytes in base64 (RFC 6455, 4.1, item 7). */
export function isWebSocketKey(text: string): boolean {
  return keyForm.test(text);
}

/** The `Sec-WebSocket-Accept` that belongs to a key (RFC 6455, 4.2.2). SHA-1 is the protocol's, and guards no secret. */
export function webSocketAccept(key: string): string {
  return createHash("sha1")
    .update(key + answerSuffix)
    .digest("base64");
}

/** Takes `Sec-WebSocket-Key` and `-Accept` out of the fields; gives the value of the one asked for, undefined unless it stood there once. */
export function takeHandshake(fields: Fields, wanted: "key" | "accept"): string | undefined {
  let found: string | undefined;
  let count = 0;
  for (let i = fields.length - 2; i >= 0; i -= 2) {
    const part = handshakePart(fields[i] as string);
    if (part === undefined) continue;
    const [, value] = fields.splice(i, 2);
    if (part !== wanted) continue;
    found = value;
    count++;
  }
  return count === 1 ? found : undefined;
}

/** The fields without what belongs to another connection's handshake. */
export function withoutHandshake(fields: Fields): Fields {
  for (let i = 0; i < fields.length; i += 2) {
    if (handshakePart(fields[i] as string) === undefined) continue;
    const kept = [...fields];
    takeHandshake(kept, "key");
    return kept;
  }
  return fields;
}

function handshakePart(name: string): "key" | "accept" | undefined {
  if (name.length === 17 && sameName(name, 0, "sec-websocket-key")) return "key";
  if (name.length === 20 && sameName(name, 0, "sec-websocket-accept")) return "accept";
  return undefined;
}

/** Whether a list of protocols (RFC 9110, 7.8) names WebSocket; its name has no version, and any case. */
export function namesWebSocket(list: string): boolean {
  if (list === "websocket") return true;
  return list.split(",").some((item) => {
    const name = item.trim();
    return name.length === 9 && name.toLowerCase() === "websocket";
  });
}

/** HTTP messages as values, the same for every version of the protocol (RFC 9110, section 6). */

/** Names and values alternating: `["content-type", "text/plain", "x-a", "1"]`. Names as received; latin1 text. */
export type Fields = string[];

export interface RequestHead {
  /** Case-sensitive token, as received (RFC 9110, 9.1). */
  method: string;
  /** Lower case. */
  scheme: string;
  /** `host[:port]` exactly as received: Host in HTTP/1.1, `:authority` in HTTP/2; "" where there was none (HTTP/1.0). */
  authority: string;
  /** Origin form with its query, exactly as received; "*" for OPTIONS *; "" for CONNECT. */
  path: string;
  /** All other fields, in order. Host and pseudo-fields are not among them; framing fields (Content-Length,
   * Transfer-Encoding, Connection and what it names) have been judged and removed. */
  fields: Fields;
  /** The body's length where it is known beforehand: 0 for none, -1 for unknown. */
  bodyLength: number;
  /**
   * The protocol to which the request asks to go over, lower case ("websocket"); absent for all others. The method is then
   * GET, also where the wire says CONNECT (RFC 8441, 5), and the fields hold neither Upgrade nor Connection.
   */
  upgrade?: string;
}

export interface ResponseHead {
  status: number;
  /** As in a request; Content-Length of a HEAD or 304 answer stays in the fields because it describes no body here. */
  fields: Fields;
  bodyLength: number;
}

/** Whether a request asks for a tunnel: by CONNECT, or to go over to another protocol. */
export function asksForTunnel(head: RequestHead): boolean {
  return head.upgrade !== undefined || head.method === "CONNECT";
}

/** Whether an answer of this status opens the tunnel that was asked for: 2xx for CONNECT, 101 for a change of protocol. */
export function opensTunnel(head: RequestHead, status: number): boolean {
  if (head.upgrade !== undefined) return status === 101;
  return head.method === "CONNECT" && status >= 200 && status < 300;
}

/** The first value of a field, by lower-case name, or undefined. */
export function fieldOf(fields: Fields, name: string): string | undefined {
  for (let i = 0; i < fields.length; i += 2) {
    const candidate = fields[i] as string;
    if (candidate.length === name.length && (candidate === name || candidate.toLowerCase() === name))
      return fields[i + 1];
  }
  return undefined;
}

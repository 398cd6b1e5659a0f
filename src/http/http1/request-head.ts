import { isRefusal, type FailureCode } from "../../base/errors.ts";
import { readAuthority } from "../authority.ts";
import type { RequestHead } from "../message.ts";
import { authorityBytes, consistsOf, methodBytes, targetBytes } from "./characters.ts";
import { FieldReader } from "./fields.ts";
import { framings, type Framing, type HeadReader } from "./framing.ts";
import type { Http1Limits } from "./limits.ts";
import { isWebSocketKey, namesWebSocket, takeHandshake } from "./websocket.ts";

const methodLengthMax = 32;
/**
 * The methods that IANA lists and llhttp takes. A closed list, as Envoy has it by default: what no server knows is no request,
 * and a parser that is stricter than its neighbours is never the one that is deceived.
 */
const methods: ReadonlySet<string> = new Set(
  (
    "ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY OPTIONS " +
    "PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE"
  ).split(" "),
);

/** Reads request heads (RFC 9112, 3 and 6.3) strictly: what two servers could read in two ways is refused. */
export class RequestHeadReader implements HeadReader<RequestHead> {
  head: RequestHead = { method: "", scheme: "", authority: "", path: "", fields: [], bodyLength: 0 };
  framing: Framing = framings.none;
  interim = false;
  /** The connection may carry another request after this one. */
  persistent = false;
  /** HTTP/1.0: no chunks, no interim answers. */
  old = false;
  /** CONNECT, or an upgrade: no message ends at this head until the answer says what follows it. */
  tunnel = false;
  /** The client's Sec-WebSocket-Key where `head.upgrade` is "websocket". */
  webSocketKey = "";
  /**
   * The first line of all on this connection names no version of HTTP: whoever sent it speaks something else, such as a
   * broken preface of HTTP/2, and would not understand an answer.
   */
  foreign = false;
  readonly kind = "request";
  readonly #fields: FieldReader;
  readonly #scheme: string;
  #target = "";
  #path = "";
  #authority: string | undefined;
  #kept: RequestHead = this.head;

  constructor(scheme: "http" | "https", limits: Http1Limits) {
    this.#scheme = scheme;
    this.#fields = new FieldReader("request", limits.fieldsMax);
  }

  get code(): FailureCode {
    return this.#fields.code;
  }

  get because(): string {
    return this.#fields.because;
  }

  get expectsContinue(): boolean {
    return this.#fields.expectsContinue && !this.old;
  }

  read(text: string): boolean {
    const fields = this.#fields;
    const method = readMethod(text);
    if (method === "") return this.#notHttp(text, "its method is none that HTTP knows, in upper case");
    const targetAt = method.length + 1;
    let at = targetAt;
    while (targetBytes[text.charCodeAt(at)] === 1) at++;
    if (at === targetAt || text.charCodeAt(at) !== 32) {
      const because = "its target is empty, or holds a character other than visible ASCII without a fragment";
      return this.#notHttp(text, because);
    }
    if (text.startsWith("HTTP/1.1\r\n", at + 1)) this.old = false;
    else if (text.startsWith("HTTP/1.0\r\n", at + 1)) this.old = true;
    else return this.#notHttp(text, "its version is not HTTP/1.1 or HTTP/1.0, after exactly one space");
    if (!fields.read(text, at + 11)) return false;
    this.#target = text.slice(targetAt, at);
    return this.#place(method) && this.#frame(method);
  }

  keep(): boolean {
    if (this.tunnel) return false;
    this.#kept = copyOf(this.head);
    return true;
  }

  repeat(): boolean {
    this.head = copyOf(this.#kept);
    return true;
  }

  #notHttp(text: string, because: string): boolean {
    this.foreign = this.head.method === "" && !/^[^\r\n]* HTTP\/[^\r\n]*\r\n/.test(text);
    return this.#fields.fail(because);
  }

  /** Where the request goes: the target, and Host, which must not contradict it (RFC 9112, 3.2 and 3.3). */
  #place(method: string): boolean {
    const fields = this.#fields;
    const host = fields.host;
    if (host === undefined) {
      if (!this.old) return fields.fail("it has no Host");
    } else if (host === "" || !consistsOf(host, authorityBytes)) {
      return fields.fail("its Host is not host[:port]");
    }
    this.#authority = host;
    this.#path = this.#target;
    if (method === "CONNECT") return this.#placeTunnel();
    if (this.#target.charCodeAt(0) === 47) return true;
    if (this.#target === "*") return method === "OPTIONS" ? true : fields.fail('only OPTIONS may ask for "*"');
    return this.#placeAbsolute(method);
  }

  #placeTunnel(): boolean {
    const target = readAuthority(this.#target);
    if (isRefusal(target) || target.port === undefined)
      return this.#fields.fail("the target of CONNECT is not host:port");
    if (this.#authority !== undefined) {
      const host = readAuthority(this.#authority);
      if (isRefusal(host) || host.host !== target.host || (host.port ?? target.port) !== target.port) {
        return this.#fields.fail("its Host differs from its target");
      }
    }
    this.#authority = this.#target;
    this.#path = "";
    return true;
  }

  #placeAbsolute(method: string): boolean {
    const colon = this.#target.indexOf("://");
    const scheme = colon < 0 ? "" : this.#target.slice(0, colon).toLowerCase();
    if (scheme !== "http" && scheme !== "https") {
      return this.#fields.fail("its target is neither a path nor an http or https URI");
    }
    const authorityAt = colon + 3;
    let end = authorityAt;
    while (end < this.#target.length && this.#target[end] !== "/" && this.#target[end] !== "?") end++;
    const authority = this.#target.slice(authorityAt, end);
    const target = readAuthority(authority);
    if (isRefusal(target)) return this.#fields.fail("the authority of its target is not host[:port]");
    if (this.#authority !== undefined) {
      const host = readAuthority(this.#authority);
      const usual = scheme === "http" ? 80 : 443;
      if (isRefusal(host) || host.host !== target.host || (host.port ?? usual) !== (target.port ?? usual)) {
        return this.#fields.fail("its Host differs from its target");
      }
    }
    this.#authority = authority;
    const rest = this.#target.slice(end);
    // RFC 9112, 3.2.4: OPTIONS for a URI without a path means the server itself.
    this.#path = rest.startsWith("/") ? rest : rest === "" && method === "OPTIONS" ? "*" : `/${rest}`;
    return true;
  }

  #frame(method: string): boolean {
    const fields = this.#fields;
    if (fields.chunked && this.old) return fields.fail("HTTP/1.0 knows no Transfer-Encoding");
    let bodyLength = 0;
    this.framing = framings.none;
    if (method === "CONNECT") {
      if (fields.chunked || fields.contentLength > 0) return fields.fail("CONNECT has no body");
    } else if (fields.chunked) {
      this.framing = framings.chunked;
      bodyLength = -1;
    } else if (fields.contentLength > 0) {
      this.framing = framings.fixed;
      bodyLength = fields.contentLength;
    }
    this.persistent = this.old ? fields.keepAlive && !fields.close : !fields.close;
    this.head = {
      method,
      scheme: this.#target.charCodeAt(0) === 47 ? this.#scheme : this.#schemeOfTarget(),
      authority: this.#authority ?? "",
      path: this.#path,
      fields: fields.fields,
      bodyLength,
    };
    this.tunnel = method === "CONNECT";
    if (this.tunnel) this.head.bodyLength = -1;
    return fields.upgradeOption ? this.#upgrade(this.head) : true;
  }

  /**
   * Whoever asks for WebSocket as RFC 6455 (4.1) wants it asked gets a tunnel; who asks wrongly is refused (4.2.1). Other
   * protocols are passed over, as is everything in HTTP/1.0 (RFC 9110, 7.8): such a request is an ordinary one.
   */
  #upgrade(head: RequestHead): boolean {
    const fields = this.#fields;
    if (this.old || head.method === "CONNECT" || !namesWebSocket(fields.upgrade)) return true;
    if (head.method !== "GET") return fields.fail("only GET may ask for WebSocket");
    if (this.framing !== framings.none) return fields.fail("it asks for WebSocket and has a body");
    const key = takeHandshake(head.fields, "key");
    if (key === undefined || !isWebSocketKey(key))
      return fields.fail("its Sec-WebSocket-Key is not one value of 16 bytes in base64");
    this.webSocketKey = key;
    this.tunnel = true;
    head.upgrade = "websocket";
    head.bodyLength = -1;
    return true;
  }

  #schemeOfTarget(): string {
    const colon = this.#target.indexOf("://");
    return colon < 0 ? this.#scheme : this.#target.slice(0, colon).toLowerCase();
  }
}

/** Of a head that asks for no upgrade. */
function copyOf({ method, scheme, authority, path, fields, bodyLength }: RequestHead): RequestHead {
  return { method, scheme, authority, path, fields: fields.slice(), bodyLength };
}

function readMethod(text: string): string {
  if (text.startsWith("GET ")) return "GET";
  if (text.startsWith("POST ")) return "POST";
  let at = 0;
  while (methodBytes[text.charCodeAt(at)] === 1) at++;
  if (at === 0 || at > methodLengthMax || text.charCodeAt(at) !== 32) return "";
  const method = text.slice(0, at);
  return methods.has(method) ? method : "";
}

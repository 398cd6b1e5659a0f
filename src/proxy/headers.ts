import type { Fields, RequestHead, ResponseHead } from "../http/message.ts";
import type { Random } from "../base/random.ts";
import { timeoutField } from "../resilience/deadline.ts";

/**
 * Which fields cross the sidecar (DESIGN, section 6): what Hauberk writes is stripped from everybody else, hop-by-hop
 * fields stay on their hop (RFC 9110, 7.6.1), names leave in lower case.
 */
type Rule = "strip" | "request-id" | "timeout" | "traceparent" | "tracestate" | "te" | "code" | "authorization";

const requestRules: ReadonlyMap<string, Rule> = new Map<string, Rule>([
  ["connection", "strip"],
  ["keep-alive", "strip"],
  ["proxy-connection", "strip"],
  ["proxy-authorization", "strip"],
  ["proxy-authenticate", "strip"],
  ["proxy-authentication-info", "strip"],
  ["transfer-encoding", "strip"],
  ["content-length", "strip"],
  ["upgrade", "strip"],
  ["http2-settings", "strip"],
  ["host", "strip"],
  ["x-forwarded-client-cert", "strip"],
  ["te", "te"],
  ["x-request-id", "request-id"],
  [timeoutField, "timeout"],
  ["traceparent", "traceparent"],
  ["tracestate", "tracestate"],
  ["authorization", "authorization"],
]);

const responseRules: ReadonlyMap<string, Rule> = new Map<string, Rule>([
  ["connection", "strip"],
  ["keep-alive", "strip"],
  ["proxy-connection", "strip"],
  ["proxy-authenticate", "strip"],
  ["proxy-authorization", "strip"],
  ["proxy-authentication-info", "strip"],
  ["transfer-encoding", "strip"],
  ["upgrade", "strip"],
  ["host", "strip"],
  ["x-forwarded-client-cert", "strip"],
  ["x-hauberk-code", "code"],
]);

const ownPrefix = "x-hauberk-";

/** What a request's fields say to the sidecar itself. */
export interface RequestNotes {
  /** Everything else, in order, names in lower case; room for what the sidecar adds. */
  fields: Fields;
  /** A request id that may be passed on, or undefined. */
  requestId: string | undefined;
  /** The deadline that the caller set, in ms, or undefined. */
  timeoutMs: number | undefined;
  traceparent: string | undefined;
  tracestate: string | undefined;
  /** The value of Authorization; undefined for none. It is in `fields` too. */
  authorization: string | undefined;
  /** More than one Authorization field: nobody can say which one counts. */
  authorizations: number;
}

/** Reads a request's fields once: what goes on, and what is for the sidecar. */
export function takeRequest(head: RequestHead): RequestNotes {
  const notes: RequestNotes = {
    fields: [],
    requestId: undefined,
    timeoutMs: undefined,
    traceparent: undefined,
    tracestate: undefined,
    authorization: undefined,
    authorizations: 0,
  };
  const given = head.fields;
  const fields = notes.fields;
  for (let i = 0; i < given.length; i += 2) {
    const name = (given[i] as string).toLowerCase();
    const value = given[i + 1] as string;
    const rule = ruleOf(requestRules, name);
    if (rule === undefined) fields.push(name, value);
    else if (rule !== "strip") note(notes, rule, value);
  }
  return notes;
}

function note(notes: RequestNotes, rule: Rule, value: string): void {
  switch (rule) {
    case "request-id":
      notes.requestId ??= isRequestId(value) ? value : undefined;
      return;
    case "timeout":
      notes.timeoutMs = shorter(notes.timeoutMs, value);
      return;
    case "traceparent":
      notes.traceparent = notes.traceparent === undefined && isTraceparent(value) ? value : "";
      return;
    case "tracestate":
      notes.tracestate = notes.tracestate === undefined ? value : `${notes.tracestate},${value}`;
      return;
    case "te":
      // RFC 9110, 10.1.4: only "trailers" may cross to HTTP/2; gRPC needs it.
      if (value.trim().toLowerCase() === "trailers") notes.fields.push("te", "trailers");
      return;
    case "authorization":
      notes.authorization = value;
      notes.authorizations++;
      notes.fields.push("authorization", value);
      return;
    case "strip":
    case "code":
  }
}

/** A response's fields as they go on. `keepCode`: its sender is a sidecar, whose own answers say their code. */
export function takeResponse(head: ResponseHead, keepCode: boolean): Fields {
  const given = head.fields;
  const fields: Fields = [];
  for (let i = 0; i < given.length; i += 2) {
    const name = (given[i] as string).toLowerCase();
    const rule = ruleOf(responseRules, name);
    if (rule === undefined || (rule === "code" && keepCode)) fields.push(name, given[i + 1] as string);
  }
  return fields;
}

/** Trailers cross under the same rules; framing and routing fields are no trailers (RFC 9110, 6.5.1). */
export function takeTrailers(trailers: Fields | undefined): Fields | undefined {
  if (trailers === undefined || trailers.length === 0) return undefined;
  const fields: Fields = [];
  for (let i = 0; i < trailers.length; i += 2) {
    const name = (trailers[i] as string).toLowerCase();
    if (ruleOf(requestRules, name) === undefined && ruleOf(responseRules, name) === undefined) {
      fields.push(name, trailers[i + 1] as string);
    }
  }
  return fields.length === 0 ? undefined : fields;
}

function ruleOf(rules: ReadonlyMap<string, Rule>, name: string): Rule | undefined {
  const rule = rules.get(name);
  if (rule !== undefined) return rule;
  if (name.startsWith(ownPrefix)) return "strip";
  // A server that turns "-" into "_" (CGI, WSGI) would take x_forwarded_client_cert for ours.
  if (!name.includes("_")) return undefined;
  const dashed = name.replaceAll("_", "-");
  return dashed.startsWith(ownPrefix) || rules.has(dashed) || dashed === "x-request-id" ? "strip" : undefined;
}

const requestIdForm = /^[A-Za-z0-9._:-]{1,64}$/;

/** At most 64 characters that no log, shell or header can misread. */
function isRequestId(text: string): boolean {
  return requestIdForm.test(text);
}

const traceparentForm = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;
const noTrace = "0".repeat(32);
const noSpan = "0".repeat(16);

/** W3C Trace Context, 3.2: version 00, and neither id all zero. */
function isTraceparent(text: string): boolean {
  return (
    traceparentForm.test(text) &&
    text.startsWith("00-") &&
    text.slice(3, 35) !== noTrace &&
    text.slice(36, 52) !== noSpan
  );
}

/** A deadline that is no number of 1 to 9 digits is as if it were not there; the shortest of several counts. */
function shorter(before: number | undefined, value: string): number | undefined {
  if (!/^[0-9]{1,9}$/.test(value)) return before;
  const given = Number(value);
  return before === undefined ? given : Math.min(before, given);
}

/** Makes request ids and trace contexts; randomness is drawn in blocks, because one system call per request is too many. */
export class Labels {
  readonly #random: Random;
  readonly #prefix: string;
  #count = 0;
  #block: Buffer = Buffer.alloc(0);
  #at = 0;

  constructor(random: Random) {
    this.#random = random;
    this.#prefix = random.bytes(9).toString("hex");
  }

  /** Unique in the mesh: 72 random bits of this process, and a count. */
  requestId(): string {
    return `${this.#prefix}-${(this.#count++).toString(36)}`;
  }

  /** A new trace, not sampled. */
  traceparent(): string {
    if (this.#at + 24 > this.#block.length) {
      this.#block = this.#random.bytes(24 * 128);
      this.#at = 0;
    }
    const at = this.#at;
    this.#at += 24;
    // Nothing but zeros is no valid id: one draw in 2^64.
    const trace = this.#block.toString("hex", at, at + 16);
    const span = this.#block.toString("hex", at + 16, at + 24);
    return trace === noTrace || span === noSpan ? this.traceparent() : `00-${trace}-${span}-00`;
  }
}

/** RFC 9110, 7.6.3: who received the message, and by which version of the protocol. */
export const viaOutbound = "1.1 hauberk";
export const viaInbound = "2 hauberk";

/** Adds what every request carries on: its id and its trace. */
export function addLabels(fields: Fields, request: { requestId: string; notes: RequestNotes }, labels: Labels): void {
  const { traceparent, tracestate } = request.notes;
  fields.push("x-request-id", request.requestId);
  if (traceparent === undefined || traceparent === "") {
    fields.push("traceparent", labels.traceparent());
    return;
  }
  fields.push("traceparent", traceparent);
  if (tracestate !== undefined) fields.push("tracestate", tracestate);
}

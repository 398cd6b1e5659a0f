import { grpcTimeoutText, isGrpcType, readGrpcTimeoutMs } from "../http/grpc.ts";
import { consistsOf } from "../http/http1/characters.ts";
import type { Fields, RequestHead, ResponseHead } from "../http/message.ts";
import type { Random } from "../base/random.ts";
import { timeoutField } from "../resilience/deadline.ts";
import { formOf, forms, owned, spellingField, spellingOf, type Written } from "./spelling.ts";

/**
 * Which fields cross the sidecar (DESIGN, section 6): what Hauberk writes is stripped from everybody else, hop-by-hop
 * fields stay on their hop (RFC 9110, 7.6.1), names are in lower case; how they were written is said beside them.
 */
type Rule =
  | "strip"
  | "request-id"
  | "timeout"
  | "grpc-timeout"
  | "content-type"
  | "traceparent"
  | "tracestate"
  | "te"
  | "via"
  | "code"
  | "case"
  | "authorization";

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
  ["via", "via"],
  [spellingField, "case"],
  ["x-request-id", "request-id"],
  [timeoutField, "timeout"],
  ["grpc-timeout", "grpc-timeout"],
  ["content-type", "content-type"],
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
  [spellingField, "case"],
]);

const ownPrefix = "x-hauberk-";

/** What a request's fields say to the sidecar itself. */
export interface RequestNotes {
  /** Everything else, in order, names in lower case; room for what the sidecar adds. */
  fields: Fields;
  /** A request id that may be passed on, or undefined. */
  requestId: string | undefined;
  /** The deadline that the caller set for the head of its answer, in ms, or undefined; the shortest of several. */
  timeoutMs: number | undefined;
  /** How the names were written, as `respell` takes it; "" over HTTP/2. */
  spelling: string;
  /** What a sidecar before this one says of that. */
  saidSpelling: string;
  /** The last to pass it on was a sidecar that received it in HTTP/1.1: it takes the spelling of the answer's names. */
  fromHttp1: boolean;
  /** It is a call of gRPC. */
  grpc: boolean;
  /** The deadline of the whole call, in ms; undefined without one, and for all that is not gRPC. */
  grpcTimeoutMs: number | undefined;
  /** Where its value stands in `fields`, so that what is left of it can be written there; 0 for nowhere. */
  grpcTimeoutAt: number;
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
    spelling: "",
    saidSpelling: "",
    fromHttp1: false,
    grpc: false,
    grpcTimeoutMs: undefined,
    grpcTimeoutAt: 0,
    traceparent: undefined,
    tracestate: undefined,
    authorization: undefined,
    authorizations: 0,
  };
  const given = head.fields;
  const fields = notes.fields;
  let seen = 0;
  for (let i = 0; i < given.length; i += 2) {
    const { name, rule, form } = requestNames.read(given[i] as string);
    const value = given[i + 1] as string;
    seen |= form;
    if (rule === undefined) fields.push(name, value);
    else if (rule !== "strip") note(notes, rule, value);
  }
  if (seen > forms.lower) notes.spelling = spellingOf(given, seen, requestNames);
  if (notes.grpcTimeoutMs !== undefined) noteGrpcTimeout(notes, notes.grpcTimeoutMs);
  return notes;
}

/** grpc-timeout is a deadline like every other, where the call is gRPC; elsewhere it is a field that says nothing. */
function noteGrpcTimeout(notes: RequestNotes, grpcTimeoutMs: number): void {
  if (notes.grpc) {
    notes.timeoutMs = notes.timeoutMs === undefined ? grpcTimeoutMs : Math.min(notes.timeoutMs, grpcTimeoutMs);
  } else {
    notes.grpcTimeoutMs = undefined;
    notes.grpcTimeoutAt = 0;
  }
}

/** Writes what is left of the deadline of a gRPC call into its fields, `elapsedMs` after it came. */
export function shortenGrpcTimeout(notes: RequestNotes, elapsedMs: number): void {
  const { grpcTimeoutAt, grpcTimeoutMs } = notes;
  // A value that stays the same costs one byte on the hop.
  if (grpcTimeoutMs === undefined || elapsedMs < 1) return;
  notes.fields[grpcTimeoutAt] = grpcTimeoutText(grpcTimeoutMs - elapsedMs);
}

function note(notes: RequestNotes, rule: Rule, value: string): void {
  switch (rule) {
    case "request-id":
      notes.requestId ??= isRequestId(value) ? value : undefined;
      return;
    case "timeout":
      notes.timeoutMs = shorter(notes.timeoutMs, value);
      return;
    case "grpc-timeout": {
      const ms = readGrpcTimeoutMs(value);
      // What is no timeout is the routee's to refuse; of several the shortest counts, and goes on alone.
      if (ms === undefined) notes.fields.push("grpc-timeout", value);
      else if (notes.grpcTimeoutMs === undefined) {
        notes.grpcTimeoutMs = ms;
        notes.grpcTimeoutAt = notes.fields.length + 1;
        notes.fields.push("grpc-timeout", value);
      } else if (ms < notes.grpcTimeoutMs) {
        notes.grpcTimeoutMs = ms;
        notes.fields[notes.grpcTimeoutAt] = value;
      }
      return;
    }
    case "content-type":
      if (isGrpcType(value)) notes.grpc = true;
      notes.fields.push("content-type", value);
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
    case "via":
      notes.fromHttp1 = value === viaHttp1;
      notes.fields.push("via", value);
      return;
    case "case":
      notes.saidSpelling = value;
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

/** A response's fields as they go on. */
export interface ResponseNotes {
  fields: Fields;
  /** How the names were written, or what a sidecar says of that. */
  spelling: string;
}

/** `keepCode`: its sender is a sidecar, whose own answers say their code, and how a routee's names were written. */
export function takeResponse(head: ResponseHead, keepCode: boolean): ResponseNotes {
  const given = head.fields;
  const fields: Fields = [];
  let seen = 0;
  let said = "";
  for (let i = 0; i < given.length; i += 2) {
    const { name, rule, form } = responseNames.read(given[i] as string);
    seen |= form;
    if (rule === undefined || (rule === "code" && keepCode)) fields.push(name, given[i + 1] as string);
    else if (rule === "case" && keepCode) said = given[i + 1] as string;
  }
  return { fields, spelling: seen > forms.lower ? spellingOf(given, seen, responseNames) : said };
}

/**
 * Trailers cross under the same rules; framing and routing fields are no trailers (RFC 9110, 6.5.1). `keepCode` as for an
 * answer's head: a sidecar that ends a gRPC call says its code here.
 */
export function takeTrailers(trailers: Fields | undefined, keepCode = false): Fields | undefined {
  if (trailers === undefined || trailers.length === 0) return undefined;
  const fields: Fields = [];
  for (let i = 0; i < trailers.length; i += 2) {
    const { name, rule } = responseNames.read(trailers[i] as string);
    const goesOn = rule === "code" ? keepCode : rule === undefined && requestNames.read(name).rule === undefined;
    if (goesOn) fields.push(name, trailers[i + 1] as string);
  }
  return fields.length === 0 ? undefined : fields;
}

const namesMax = 512;

/** The rules of one direction, by name as it was sent: a handful of names come all the time. Bounded; the oldest goes. */
class Names {
  readonly #rules: ReadonlyMap<string, Rule>;
  readonly #known = new Map<string, Named>();

  constructor(rules: ReadonlyMap<string, Rule>) {
    this.#rules = rules;
  }

  read(name: string): Named {
    return this.#known.get(name) ?? this.#learn(name);
  }

  #learn(name: string): Named {
    const written = owned(name);
    const lower = written.toLowerCase();
    const rule = ruleOf(this.#rules, lower);
    const form = rule === undefined || passes.has(rule) ? formOf(written, lower) : forms.none;
    const named = { name: lower, rule, form, written };
    // A long name is not worth its memory.
    if (name.length > 64) return named;
    if (this.#known.size >= namesMax) {
      const oldest = this.#known.keys().next();
      if (oldest.done !== true) this.#known.delete(oldest.value);
    }
    this.#known.set(written, named);
    return named;
  }
}

interface Named extends Written {
  /** In lower case. */
  readonly name: string;
  readonly rule: Rule | undefined;
}

/** Rules of what goes on as it came. */
const passes: ReadonlySet<Rule> = new Set<Rule>(["content-type", "grpc-timeout", "authorization", "via"]);

function ruleOf(rules: ReadonlyMap<string, Rule>, name: string): Rule | undefined {
  const rule = rules.get(name);
  if (rule !== undefined) return rule;
  if (name.startsWith(ownPrefix)) return "strip";
  // A server that turns "-" into "_" (CGI, WSGI) would take x_forwarded_client_cert for ours.
  if (!name.includes("_")) return undefined;
  const dashed = name.replaceAll("_", "-");
  return dashed.startsWith(ownPrefix) || rules.has(dashed) || dashed === "x-request-id" ? "strip" : undefined;
}

const requestNames = new Names(requestRules);
const responseNames = new Names(responseRules);

const requestIdLengthMax = 64;

/** At most 64 characters that no log, shell or header can misread. */
function isRequestId(text: string): boolean {
  return text !== "" && text.length <= requestIdLengthMax && consistsOf(text, requestIdBytes);
}

const requestIdBytes = Uint8Array.from({ length: 256 }, (_, code) =>
  /[A-Za-z0-9._:-]/.test(String.fromCharCode(code)) ? 1 : 0,
);

const noTrace = "0".repeat(32);
const noSpan = "0".repeat(16);
const traceparentLength = 55;
const noDigit = 16;

/** The value of a lower-case hexadecimal digit, for all else a bit that no digit has. */
const digits = Uint8Array.from({ length: 256 }, (_, code) => {
  const text = String.fromCharCode(code);
  return /[0-9a-f]/.test(text) ? Number.parseInt(text, 16) : noDigit;
});

/** W3C Trace Context, 3.2: version 00, and neither id all zero. Loops, because a regular expression takes four times as long. */
function isTraceparent(text: string): boolean {
  if (text.length !== traceparentLength || !text.startsWith("00-")) return false;
  if (text.charCodeAt(35) !== 45 || text.charCodeAt(52) !== 45) return false;
  const trace = digitsOf(text, 3, 35);
  const span = digitsOf(text, 36, 52);
  return trace > 0 && trace < noDigit && span > 0 && span < noDigit && digitsOf(text, 53, 55) < noDigit;
}

/** All digits in one: 0 where each is 0, `noDigit` and more where one is none. */
function digitsOf(text: string, from: number, to: number): number {
  let all = 0;
  for (let i = from; i < to; i++) all |= digits[text.charCodeAt(i)] ?? noDigit;
  return all;
}

/** A deadline that is no number of 1 to 9 digits is as if it were not there; the shortest of several counts. */
function shorter(before: number | undefined, value: string): number | undefined {
  if (value.length > 9 || value === "") return before;
  let given = 0;
  for (let i = 0; i < value.length; i++) {
    const digit = value.charCodeAt(i) - 48;
    if (digit < 0 || digit > 9) return before;
    given = given * 10 + digit;
  }
  return before === undefined ? given : Math.min(before, given);
}

/** Makes request ids and trace contexts; randomness is drawn in blocks, because one system call per request is too many. */
export class Labels {
  readonly #random: Random;
  readonly #prefix: string;
  #count = 0;
  /** Random hexadecimal digits. */
  #block = "";
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
    if (this.#at + 48 > this.#block.length) {
      this.#block = this.#random.bytes(24 * 128).toString("hex");
      this.#at = 0;
    }
    const at = this.#at;
    this.#at += 48;
    // Nothing but zeros is no valid id: one draw in 2^64.
    const trace = this.#block.slice(at, at + 32);
    const span = this.#block.slice(at + 32, at + 48);
    return trace === noTrace || span === noSpan ? this.traceparent() : `00-${trace}-${span}-00`;
  }
}

const viaHttp1 = "1.1 hauberk";

/** RFC 9110, 7.6.3: who received the message, and by which version of the protocol. */
export function viaOf(connection: { readonly protocol: string }): string {
  return connection.protocol === "h2" ? "2 hauberk" : viaHttp1;
}

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

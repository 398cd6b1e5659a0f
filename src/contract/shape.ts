import { refuse, type Refusal } from "../base/errors.ts";
import { limits } from "./limits.ts";

/**
 * Strict readers of JSON: each takes a value and where it stands, and gives back a copy of exactly the expected shape.
 * Inside this folder they throw `Wrong`; `reading` turns that into a refusal, so that nothing is thrown at a caller.
 * Written by hand, because the sidecar must not load a schema library (its memory budget is 80 MB).
 */
export type Reader<T> = (value: unknown, at: string) => T;

type Shape = Readonly<Record<string, Reader<unknown>>>;
type Values<S extends Shape> = { readonly [K in keyof S]: S[K] extends Reader<infer T> ? T : never };

class Wrong extends Error {
  constructor(at: string, wanted: string) {
    super(`${at === "" ? "the message" : at} is not ${wanted}`);
  }
}

export function wrong(at: string, wanted: string): never {
  throw new Wrong(at, wanted);
}

/** Runs a reader over a value; whatever it is, a value or a refusal comes back. `what` names it in the sentence. */
export function reading<T>(what: string, reader: Reader<T>, value: unknown): T | Refusal {
  try {
    return reader(value, "");
  } catch (thrown) {
    const because = thrown instanceof Wrong ? thrown.message : "it cannot be walked";
    return refuse(
      "MESSAGE_INVALID",
      `Cannot read the ${what}: ${because}`,
      "Compare the Hauberk releases of both ends",
    );
  }
}

/** Parses JSON of bounded length and depth. The depth is counted before anything is built. */
export function parseJson(what: string, text: string, bytesMax: number): { readonly value: unknown } | Refusal {
  const not = (because: string): Refusal =>
    refuse("MESSAGE_INVALID", `Cannot read the ${what}: ${because}`, "Send one JSON value within the limits");
  if (text.length > bytesMax) return not(`it is longer than ${bytesMax} bytes`);
  if (isDeeperThan(text, limits.depthMax)) return not(`it is nested deeper than ${limits.depthMax}`);
  try {
    return { value: JSON.parse(text) as unknown };
  } catch {
    return not("it is not JSON");
  }
}

/** Whether brackets outside of strings nest deeper than `depthMax`; text that is no JSON gets some answer, quickly. */
export function isDeeperThan(text: string, depthMax: number): boolean {
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 0x22) {
      at = endOfString(text, at);
    } else if (code === 0x7b || code === 0x5b) {
      if (++depth > depthMax) return true;
    } else if (code === 0x7d || code === 0x5d) {
      depth--;
    }
  }
  return false;
}

/** The index of the quote that closes the string opened at `at`, or the end. */
function endOfString(text: string, at: number): number {
  for (let end = text.indexOf('"', at + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let slashes = 0;
    while (text.charCodeAt(end - 1 - slashes) === 0x5c) slashes++;
    if (slashes % 2 === 0) return end;
  }
  return text.length;
}

function fields(value: unknown, at: string): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) wrong(at, "an object");
  return value as Record<string, unknown>;
}

function below(at: string, name: string): string {
  return at === "" ? name : `${at}.${name}`;
}

/** An object with exactly these keys; those of `optional` may be absent. Unknown keys are refused. */
export function object<S extends Shape>(required: S): Reader<Values<S>>;
export function object<S extends Shape, O extends Shape>(
  required: S,
  optional: O,
): Reader<Values<S> & Partial<Values<O>>>;
export function object(required: Shape, optional: Shape = {}): Reader<unknown> {
  const needed = Object.keys(required);
  const known = new Map<string, Reader<unknown>>([...Object.entries(required), ...Object.entries(optional)]);
  return (value, at) => {
    const from = fields(value, at);
    const into: Record<string, unknown> = {};
    for (const name of Object.keys(from)) {
      const reader = known.get(name);
      if (reader === undefined) wrong(at, `free of the unknown key ${JSON.stringify(name.slice(0, 64))}`);
      into[name] = reader(from[name], below(at, name));
    }
    for (const name of needed) if (!Object.hasOwn(from, name)) wrong(below(at, name), "there");
    return into;
  };
}

/** An object with free keys, as claims and headers have them. */
export function record<T>(each: Reader<T>, form: RegExp, countMax: number = limits.listMax): Reader<Record<string, T>> {
  return (value, at) => {
    const from = fields(value, at);
    const names = Object.keys(from);
    if (names.length > countMax) wrong(at, `at most ${countMax} keys`);
    const into: Record<string, T> = {};
    for (const name of names) {
      if (name === "__proto__" || !form.test(name)) wrong(at, "free of impossible keys");
      into[name] = each(from[name], below(at, name));
    }
    return into;
  };
}

export function list<T>(each: Reader<T>, countMax: number = limits.listMax): Reader<readonly T[]> {
  return (value, at) => {
    if (!Array.isArray(value)) wrong(at, "a list");
    if (value.length > countMax) wrong(at, `a list of at most ${countMax}`);
    return value.map((item: unknown, index) => each(item, `${at}[${index}]`));
  };
}

export function text(lengthMax: number, form?: RegExp, wanted?: string): Reader<string> {
  return (value, at) => {
    if (typeof value !== "string") wrong(at, "text");
    if (value.length > lengthMax) wrong(at, `text of at most ${lengthMax} characters`);
    if (form !== undefined && !form.test(value)) wrong(at, wanted ?? "in its form");
    return value;
  };
}

// oxlint-disable-next-line no-control-regex -- control characters are what this is about
const control = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g;

/** Words for people: cut to length, and without what a terminal or a log would obey. */
export const sentence: Reader<string> = (value, at) => {
  if (typeof value !== "string") wrong(at, "text");
  return value.slice(0, limits.sentenceMax).replace(control, " ");
};

export function integer(min: number, max: number): Reader<number> {
  return (value, at) => {
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min || value > max) {
      wrong(at, `an integer from ${min} to ${max}`);
    }
    return value;
  };
}

/** Milliseconds since 1970. */
export const moment: Reader<number> = (value, at) => {
  if (typeof value !== "number" || !Number.isFinite(value) || value < 0 || value > 253_402_300_799_999) {
    wrong(at, "a moment in milliseconds since 1970");
  }
  return value;
};

export const flag: Reader<boolean> = (value, at) => {
  if (typeof value !== "boolean") wrong(at, "true or false");
  return value;
};

export function oneOf<const T extends string | number>(...values: readonly T[]): Reader<T> {
  return (value, at) => {
    const found = values.find((known) => known === value);
    if (found === undefined) wrong(at, `one of ${values.join(", ")}`);
    return found;
  };
}

export function nullable<T>(reader: Reader<T>): Reader<T | null> {
  return (value, at) => (value === null ? null : reader(value, at));
}

/** A union by its tag: the readers see the whole object. */
export function tagged<T>(tag: string, readers: Readonly<Record<string, Reader<T>>>): Reader<T> {
  const known = new Map(Object.entries(readers));
  return (value, at) => {
    const name = fields(value, at)[tag];
    const reader = typeof name === "string" ? known.get(name) : undefined;
    if (reader === undefined) wrong(below(at, tag), `one of ${[...known.keys()].join(", ")}`);
    return reader(value, at);
  };
}

/** Standard base64 with padding (RFC 4648, section 4) of DER. */
export const der: Reader<string> = text(
  limits.derTextMax,
  /^(?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$|^(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)$/,
  "base64",
);

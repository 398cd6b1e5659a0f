import { isAlias, isMap, isPair, isScalar, isSeq, type Document, type LineCounter, type Node } from "yaml";
import { suggest } from "./suggest.ts";

/**
 * Shapes of YAML as small readers over the document's nodes, so that every problem has its line and column.
 * A reader notes what is wrong on the desk and goes on, so that a person sees all problems at once.
 */
export interface Problem {
  readonly file: string;
  /** From 1. */
  readonly line: number;
  /** From 1. */
  readonly column: number;
  /** *Cannot* + action + colon + what is + what was wanted. */
  readonly message: string;
  readonly hint: string;
}

/** A node, or null where the file has nothing after the colon. */
export type At = Node | null;

/** Collects the problems and warnings of one file. */
export class Desk {
  readonly problems: Problem[] = [];
  readonly warnings: Problem[] = [];
  readonly file: string;
  readonly #lines: LineCounter;
  /** Where things without a node of their own are shown. */
  #offset = 0;

  constructor(file: string, lines: LineCounter) {
    this.file = file;
    this.#lines = lines;
  }

  wrong(at: At, message: string, hint: string): undefined {
    this.problems.push(this.#at(at, message, hint));
    return undefined;
  }

  warn(at: At, message: string, hint: string): void {
    this.warnings.push(this.#at(at, message, hint));
  }

  /** A problem at an offset of the text: what the parser itself says. */
  wrongAt(offset: number, message: string, hint: string): void {
    this.problems.push({ file: this.file, ...this.#place(offset), message, hint });
  }

  /** From 1. */
  lineOf(at: At): number {
    return this.#place(at?.range?.[0] ?? 0).line;
  }

  #at(at: At, message: string, hint: string): Problem {
    const offset = at?.range?.[0];
    if (offset !== undefined) this.#offset = offset;
    return { file: this.file, ...this.#place(this.#offset), message, hint };
  }

  /** Remembers a place for what comes without one: an empty value is shown at its key. */
  near(at: At): void {
    if (at?.range?.[0] !== undefined) this.#offset = at.range[0];
  }

  #place(offset: number): { line: number; column: number } {
    const { line, col } = this.#lines.linePos(offset);
    return { line: Math.max(1, line), column: Math.max(1, col) };
  }
}

/** Reads one node; `key` is what it stands behind. undefined where it is wrong, and the desk knows why. */
export type Read<T> = (at: At, key: string, desk: Desk) => T | undefined;

/** A value that keeps its place, for problems that show only when the whole is known. */
export interface Placed<T> {
  readonly value: T;
  readonly at: At;
}

export function placed<T>(read: Read<T>): Read<Placed<T>> {
  return (at, key, desk) => {
    const value = read(at, key, desk);
    return value === undefined ? undefined : { value, at };
  };
}

/** A word in quotes, short enough for a line. */
export function quote(word: string): string {
  return JSON.stringify(word.length > 80 ? `${word.slice(0, 77)}…` : word);
}

/** What a check says of a text that is wrong. */
export interface Fault {
  readonly because: string;
  readonly hint: string;
}

/** A text. Numbers and booleans are refused: in quotes they are text. */
export function text(check?: (value: string) => Fault | undefined): Read<string> {
  return (at, key, desk) => {
    if (!isScalar(at) || typeof at.value !== "string") return notThe("a text", at, key, desk);
    if (at.value.length > 2_048)
      return desk.wrong(at, `Cannot use ${key}: it is longer than 2048 characters`, "Shorten it");
    const fault = check?.(at.value);
    if (fault !== undefined)
      return desk.wrong(at, `Cannot use ${key} ${quote(at.value)}: ${fault.because}`, fault.hint);
    return at.value;
  };
}

/** A text, or a number or boolean as it is written. */
export function word(check?: (value: string) => Fault | undefined): Read<string> {
  const asText = text(check);
  return (at, key, desk) => {
    if (!isScalar(at) || (typeof at.value !== "number" && typeof at.value !== "boolean")) return asText(at, key, desk);
    const written = at.source ?? String(at.value);
    const fault = check?.(written);
    if (fault !== undefined) return desk.wrong(at, `Cannot use ${key} ${quote(written)}: ${fault.because}`, fault.hint);
    return written;
  };
}

export function oneOf<const T extends string>(...words: readonly T[]): Read<T> {
  return text((value) => {
    if ((words as readonly string[]).includes(value)) return undefined;
    const meant = suggest(value, words);
    return {
      because: `it is none of ${words.join(", ")}`,
      hint: meant === undefined ? `Write ${words.join(" or ")}` : `Did you mean ${meant}?`,
    };
  }) as Read<T>;
}

export const flag: Read<boolean> = (at, key, desk) =>
  isScalar(at) && typeof at.value === "boolean" ? at.value : notThe("true or false", at, key, desk);

export function integer(min: number, max: number): Read<number> {
  return (at, key, desk) => {
    if (
      isScalar(at) &&
      typeof at.value === "number" &&
      Number.isInteger(at.value) &&
      at.value >= min &&
      at.value <= max
    )
      return at.value;
    return notThe(`a whole number from ${min} to ${max}`, at, key, desk);
  };
}

const listMax = 1_000;

/** A list with at least one member and none twice: an empty one would match nothing, or everything. */
export function list<T>(read: Read<T>): Read<T[]> {
  return (at, key, desk) => {
    if (!isSeq(at)) return notThe("a list", at, key, desk);
    if (at.items.length === 0)
      return desk.wrong(
        at,
        `Cannot use ${key}: the list is empty, and no call could match it`,
        `Leave ${key} out, or list what is meant`,
      );
    if (at.items.length > listMax)
      return desk.wrong(
        at,
        `Cannot use ${key}: it has more than ${listMax} members`,
        "Use a pattern, or several policies",
      );
    const values: T[] = [];
    const seen = new Set<unknown>();
    for (const item of at.items as At[]) {
      const value = read(item, key, desk);
      if (value === undefined) continue;
      if (typeof value !== "object" && seen.has(value))
        desk.wrong(item, `Cannot use ${key} ${quote(String(value))}: it is listed twice`, "Remove one");
      seen.add(value);
      values.push(value);
    }
    return values;
  };
}

/** A map of any keys that `checkKey` accepts, with at least one. */
export function record<T>(checkKey: (key: string) => Fault | undefined, read: Read<T>): Read<Record<string, T>> {
  return (at, key, desk) => {
    const entries = entriesOf(at, key, desk);
    if (entries === undefined) return undefined;
    if (entries.length === 0)
      return desk.wrong(
        at,
        `Cannot use ${key}: it is empty, and no call could match it`,
        `Leave ${key} out, or name what is meant`,
      );
    const values: [string, T][] = [];
    for (const entry of entries) {
      const fault = checkKey(entry.name);
      if (fault !== undefined) {
        desk.wrong(entry.key, `Cannot use ${key} ${quote(entry.name)}: ${fault.because}`, fault.hint);
        continue;
      }
      desk.near(entry.key);
      const value = read(entry.value, `${key} ${entry.name}`, desk);
      if (value !== undefined) values.push([entry.name, value]);
    }
    return Object.fromEntries(values);
  };
}

type Shape = Readonly<Record<string, Read<unknown>>>;
type Values<S extends Shape> = { readonly [K in keyof S]?: S[K] extends Read<infer T> ? T : never };

export interface Mapped<S extends Shape> {
  readonly values: Values<S>;
  /** The node of each value that is there, for later problems. */
  readonly at: { readonly [K in keyof S]?: At };
  readonly node: At;
  /** Whether not even an unknown key was written. */
  readonly empty: boolean;
}

/** A map of known keys. Keys of `needed` must be there; unknown ones are refused, with the one that was meant. */
export function map<const S extends Shape>(shape: S, needed: readonly (keyof S & string)[] = []): Read<Mapped<S>> {
  const known = Object.keys(shape);
  return (node, key, desk) => {
    const entries = entriesOf(node, key, desk);
    if (entries === undefined) return undefined;
    const values: Record<string, unknown> = {};
    const at: Record<string, At> = {};
    for (const entry of entries) {
      if (!known.includes(entry.name)) {
        const meant = suggest(entry.name, known);
        const hint = meant === undefined ? `Known are ${known.join(", ")}` : `Did you mean ${meant}?`;
        desk.wrong(entry.key, `Cannot use the key ${quote(entry.name)}: it is not known in ${key}`, hint);
        continue;
      }
      desk.near(entry.key);
      at[entry.name] = entry.value ?? entry.key;
      const value = (shape[entry.name] as Read<unknown>)(entry.value, entry.name, desk);
      if (value !== undefined) values[entry.name] = value;
    }
    for (const name of needed) {
      if (!Object.hasOwn(at, name)) desk.wrong(node, `Cannot read ${key}: ${name} is missing`, `Add ${name}`);
    }
    return { values: values as Values<S>, at, node, empty: entries.length === 0 };
  };
}

interface Entry {
  readonly name: string;
  readonly key: At;
  readonly value: At;
}

function entriesOf(at: At, key: string, desk: Desk): Entry[] | undefined {
  if (!isMap(at)) return notThe("a map of keys and values", at, key, desk);
  const entries: Entry[] = [];
  for (const pair of at.items) {
    const name: unknown = pair.key;
    if (isScalar(name) && typeof name.value === "string") {
      entries.push({ name: name.value, key: name, value: pair.value as At });
    } else desk.wrong((name as At) ?? at, `Cannot read ${key}: a key is not a text`, "Put it in quotes");
  }
  return entries;
}

function notThe(wanted: string, at: At, key: string, desk: Desk): undefined {
  return desk.wrong(at, `Cannot use ${key}: it is ${kindOf(at)}, not ${wanted}`, `Write ${wanted}`);
}

function kindOf(at: At): string {
  if (isAlias(at)) return "an alias";
  if (isMap(at)) return "a map";
  if (isSeq(at)) return "a list";
  if (!isScalar(at) || at.value === null) return "empty";
  return typeof at.value === "string" ? `the text ${quote(at.value)}` : `the ${typeof at.value} ${at.source ?? ""}`;
}

/**
 * What no policy file needs and every parser has been attacked with: aliases (`*name`), which can grow a line into
 * gigabytes, tags (`!!js/function`), and nesting deeper than `depthMax`. Walks by hand, because the file's depth is not
 * ours to choose.
 */
export function refuseTricks(document: Document, depthMax: number, desk: Desk): void {
  const open: { node: unknown; depth: number }[] = [{ node: document.contents, depth: 1 }];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { node, depth } = next;
    if (isPair(node)) {
      open.push({ node: node.value, depth }, { node: node.key, depth });
      continue;
    }
    if (isAlias(node)) desk.wrong(node, "Cannot read the file: it has an alias", "Write the value out");
    else if (isScalar(node) || isMap(node) || isSeq(node)) {
      if (node.tag?.startsWith("!") === true)
        desk.wrong(node, "Cannot read the file: it has a tag", "Leave the tag out, and put texts in quotes");
    }
    if (!isMap(node) && !isSeq(node)) continue;
    if (depth > depthMax) {
      desk.wrong(node, `Cannot read the file: it is nested deeper than ${depthMax} levels`, "Write it flatter");
      return;
    }
    for (const item of node.items) open.push({ node: item, depth: depth + 1 });
  }
}

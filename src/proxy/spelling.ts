import type { Fields } from "../http/message.ts";

/**
 * How the names of a message were written where it was HTTP/1.1: HTTP/2 knows only lower case (RFC 9113, 8.2), so what differs
 * from that crosses the hop between two sidecars beside the message, and is undone for a peer that speaks HTTP/1.1
 * (docs/decisions/0013). It is "" for lower case, "*" where every name is Written-Like-This, else a list of the names that
 * are not in lower case, as they were written: no more than letters' case can be said with it.
 */
export const spellingField = "x-hauberk-case";
const canonically = "*";

/** What forms there are, as bits: so that one number says which ones a message has. */
export const forms = { none: 0, lower: 1, canonical: 2, other: 4 } as const;

/** A longer list is not worth its place; the names arrive in lower case. */
const spellingMax = 1024;
const cacheMax = 256;

/** How a name was written; none where there is nothing to see, because it has no letters. */
export function formOf(name: string, lower: string): number {
  const canonical = canonicalOf(lower);
  if (canonical === lower) return forms.none;
  if (name === lower) return forms.lower;
  return name === canonical ? forms.canonical : forms.other;
}

export interface Written {
  /** One of `forms`; none where it does not go on by this name. */
  readonly form: number;
  readonly written: string;
}

/** What is to be said of the names of `fields`, which have the forms `seen`; only of a mixture they are looked at again. */
export function spellingOf(fields: Fields, seen: number, names: { read(name: string): Written }): string {
  if (seen === forms.canonical) return canonically;
  let list = "";
  for (let i = 0; i < fields.length; i += 2) {
    const { form, written } = names.read(fields[i] as string);
    if (form > forms.lower) list = list === "" ? written : `${list},${written}`;
  }
  return list.length > spellingMax ? "" : list;
}

/** Writes the names of `fields`, all in lower case, as `spelling` says. */
export function respell(fields: Fields, spelling: string): void {
  if (spelling === "") return;
  if (spelling === canonically) {
    for (let i = 0; i < fields.length; i += 2) fields[i] = canonicalOf(fields[i] as string);
    return;
  }
  const spelled = spellings.get(spelling) ?? learn(spelling);
  for (let i = 0; i < fields.length; i += 2) {
    const name = spelled.get(fields[i] as string);
    if (name !== undefined) fields[i] = name;
  }
}

const spellings = new Map<string, ReadonlyMap<string, string>>();
const canonicals = new Map<string, string>();

/** The same few lists come again and again; what is kept is bounded, and the oldest goes. */
function learn(spelling: string): ReadonlyMap<string, string> {
  const names = new Map<string, string>();
  if (spelling.length > spellingMax) return names;
  for (const name of spelling.split(",")) names.set(name.toLowerCase(), name);
  keep(spellings, owned(spelling), names);
  return names;
}

/** `x-request-id` as `X-Request-Id`. */
function canonicalOf(lower: string): string {
  const known = canonicals.get(lower);
  if (known !== undefined) return known;
  let canonical = "";
  let begins = true;
  for (const char of lower) {
    canonical += begins ? char.toUpperCase() : char;
    begins = char === "-";
  }
  if (lower.length <= 64) keep(canonicals, owned(lower), canonical);
  return canonical;
}

function keep<Value>(cache: Map<string, Value>, key: string, value: Value): void {
  if (cache.size >= cacheMax) {
    const oldest = cache.keys().next();
    if (oldest.done !== true) cache.delete(oldest.value);
  }
  cache.set(key, value);
}

/** A text of its own: a part of a message's head would keep the whole head in memory. */
export function owned(text: string): string {
  return Buffer.from(text, "latin1").toString("latin1");
}

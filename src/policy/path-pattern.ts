import { compilePattern, type Matcher } from "./pattern.ts";

/**
 * Paths: exact, `*suffix`, `prefix*`, or a template. `{name}` stands for one segment that is not empty, `{**}` for any
 * text between its slashes, slashes included; neither is a regular expression. `/a/*` and `/a/{**}` match `/a/` and
 * everything below it, not `/a`.
 */
export interface PathMatcher {
  readonly matches: Matcher;
  /** What every path that matches starts with; the index of rules hangs them up by it. */
  readonly prefix: string;
}

export function compilePath(pattern: string): PathMatcher {
  if (pattern.includes("{")) return compileTemplate(pattern);
  const matches = compilePattern(pattern);
  if (pattern.startsWith("*")) return { matches, prefix: "" };
  return { matches, prefix: pattern.endsWith("*") ? pattern.slice(0, -1) : pattern };
}

/** undefined for one segment of any text, else the segment itself. */
type Segment = string | undefined;

function compileTemplate(pattern: string): PathMatcher {
  const prefix = pattern.slice(0, pattern.indexOf("{"));
  const segments = pattern.slice(1).split("/");
  const rest = segments.indexOf("{**}");
  const head = (rest < 0 ? segments : segments.slice(0, rest)).map(segmentOf);
  const tail = (rest < 0 ? [] : segments.slice(rest + 1)).map(segmentOf);
  return { prefix, matches: (path) => matchesTemplate(path, head, rest < 0 ? undefined : tail) };
}

function segmentOf(text: string): Segment {
  return text.startsWith("{") ? undefined : text;
}

function matchesTemplate(path: string, head: readonly Segment[], tail: readonly Segment[] | undefined): boolean {
  if (!path.startsWith("/")) return false;
  const segments = path.slice(1).split("/");
  if (tail === undefined) return segments.length === head.length && same(segments, 0, head);
  // `{**}` takes at least one segment, which may be empty: the text between two slashes.
  if (segments.length < head.length + 1 + tail.length) return false;
  return same(segments, 0, head) && same(segments, segments.length - tail.length, tail);
}

function same(segments: readonly string[], from: number, wanted: readonly Segment[]): boolean {
  return wanted.every((segment, index) => {
    const actual = segments[from + index];
    return segment === undefined ? actual !== "" : actual === segment;
  });
}

/** What makes a pattern one that can never match a normalized path, or match by surprise; undefined where it is fine. */
export function problemOfPath(pattern: string): string | undefined {
  if (pattern === "*") return undefined;
  if (!/^[/*]/.test(pattern)) return 'it does not start with "/"';
  if (/[?#]/.test(pattern)) return "a path is matched without its query and has no fragment";
  if (!/^[\x21-\x5b\x5d-\x7e]*$/.test(pattern)) return "it has a character that no normalized path has";
  if (pattern.includes("//")) return "normalized paths have no empty segments";
  if (/(^|\/)\.\.?(\/|$)/.test(pattern)) return 'normalized paths have no "." and ".." segments';
  const encoding = problemOfEncoding(pattern);
  if (encoding !== undefined) return encoding;
  return /[{}]/.test(pattern) ? problemOfTemplate(pattern) : problemOfStar(pattern);
}

function problemOfStar(pattern: string): string | undefined {
  const star = pattern.indexOf("*");
  if (star < 0) return undefined;
  if (star !== pattern.lastIndexOf("*")) return 'it has more than one "*"';
  return star === 0 || star === pattern.length - 1
    ? undefined
    : '"*" stands in the middle; it may stand only first or last';
}

function problemOfTemplate(pattern: string): string | undefined {
  if (pattern.includes("*") && pattern.replaceAll("{**}", "").includes("*"))
    return '"*" and {…} do not mix; write {**}';
  let rests = 0;
  for (const segment of pattern.split("/")) {
    if (!/[{}]/.test(segment)) continue;
    if (segment === "{**}") rests++;
    else if (!/^\{[A-Za-z_][A-Za-z0-9_-]*\}$/.test(segment))
      return "a template is {name} or {**}, alone between two slashes";
  }
  return rests > 1 ? "{**} may stand only once" : undefined;
}

/** Percent encodings that normalization undoes, writes in another way or refuses never arrive. */
function problemOfEncoding(pattern: string): string | undefined {
  for (const [index] of [...pattern.matchAll(/%/g)].map((match) => [match.index])) {
    const hex = pattern.slice((index as number) + 1, (index as number) + 3);
    if (!/^[0-9A-Fa-f]{2}$/.test(hex)) return '"%" is not followed by two hexadecimal digits';
    if (hex !== hex.toUpperCase()) return "normalized paths write %-encodings in upper case";
    if (hex === "2F" || hex === "5C" || hex === "7F" || hex < "20")
      return `paths with %${hex} are refused before any policy`;
    const character = String.fromCharCode(Number.parseInt(hex, 16));
    if (/[A-Za-z0-9._~-]/.test(character)) return `normalized paths write "${character}" instead of %${hex}`;
  }
  return undefined;
}

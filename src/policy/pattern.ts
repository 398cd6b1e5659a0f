import type { Pattern } from "./resource.ts";

/**
 * Patterns are literal text with one `*` first or last; nothing in them is a regular expression, so `a.b` never matches
 * `aXb` and no pattern can take long.
 */
export type Matcher = (value: string) => boolean;

/** Whether `*` stands only where it may: alone, first or last. */
export function isPattern(text: string): boolean {
  const star = text.indexOf("*");
  return text !== "" && (star < 0 || (star === text.lastIndexOf("*") && (star === 0 || star === text.length - 1)));
}

/** A matcher of one pattern: exact, `*suffix`, `prefix*`, or `*` for anything that is there. */
export function compilePattern(pattern: Pattern): Matcher {
  if (pattern === "*") return () => true;
  if (pattern.startsWith("*")) {
    const suffix = pattern.slice(1);
    return (value) => value.endsWith(suffix);
  }
  if (pattern.endsWith("*")) {
    const prefix = pattern.slice(0, -1);
    return (value) => value.startsWith(prefix);
  }
  return (value) => value === pattern;
}

/** A matcher of any of the patterns: one look-up for the exact ones, then the others in order. */
export function compilePatterns(patterns: readonly Pattern[]): Matcher {
  if (patterns.length === 1) return compilePattern(patterns[0] as Pattern);
  const exact = new Set(patterns.filter((pattern) => !pattern.includes("*")));
  const others = patterns.filter((pattern) => pattern.includes("*")).map(compilePattern);
  if (others.length === 0) return (value) => exact.has(value);
  return (value) => exact.has(value) || others.some((matches) => matches(value));
}

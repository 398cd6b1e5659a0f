/**
 * JSON as two readers of it must agree on: no key twice in an object, which JSON.parse would hide (SPIFFE Trust
 * Domain and Bundle §6.3), and integers beyond 2^53 as bigint. Undefined where the text is no such JSON.
 */
export function parseStrictJson(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text, bigIntegers);
    return hasDuplicateKeys(text) ? undefined : value;
  } catch {
    return undefined;
  }
}

function bigIntegers(this: unknown, _key: string, value: unknown, context?: { source?: string }): unknown {
  if (typeof value !== "number" || Number.isSafeInteger(value)) return value;
  const source = context?.source ?? "";
  return /^-?\d{1,40}$/.test(source) ? BigInt(source) : value;
}

/** `text` is known to be JSON: only strings, braces and colons have to be told apart. */
function hasDuplicateKeys(text: string): boolean {
  const objects: Set<string>[] = [];
  const token = /"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?|[{}]/g;
  for (const [found, colon] of text.matchAll(token)) {
    if (found === "{") objects.push(new Set());
    else if (found === "}") objects.pop();
    else if (colon !== undefined) {
      const name = JSON.parse(found.slice(0, -colon.length)) as string;
      const names = objects.at(-1);
      if (names === undefined || names.has(name)) return true;
      names.add(name);
    }
  }
  return false;
}

import { limits } from "./limits.ts";
import type { Version } from "./watch.ts";

/** A state, or a change of one, with its entries and keys as JSON already: most of these texts are shared. */
export interface StateTexts {
  readonly type: "full" | "delta";
  readonly version: Version;
  /** `["service/orders.default",{…}]`, one each. */
  readonly set: readonly string[];
  /** `"service/orders.default"`, one each; none for a full state. */
  readonly gone: readonly string[];
}

/** So much of a state is parsed at one go beside its owner's traffic; only an entry that is larger makes a longer line. */
const lineBytesWanted = 1024 * 1024;

/**
 * One message about the state, as lines with their ends: one where it is small; else several, of which all but the last say that there
 * is `more`. They are made one by one, so that a reader who is slow has one of them waiting and not all.
 */
export function* stateLines({ type, version, set, gone }: StateTexts): Generator<string, undefined> {
  let head = type;
  let part = { set: [] as string[], gone: [] as string[], bytes: 0 };
  const line = (more: boolean): string => {
    const text = lineOf({ type: head, version, set: part.set, gone: part.gone }, more);
    head = "delta";
    part = { set: [], gone: [], bytes: 0 };
    return text;
  };
  for (const into of ["set", "gone"] as const) {
    for (const text of into === "set" ? set : gone) {
      const bytes = Buffer.byteLength(text);
      const count = part.set.length + part.gone.length;
      if (count > 0 && (part.bytes + bytes > lineBytesWanted || count >= limits.entriesMax)) yield line(true);
      part[into].push(text);
      part.bytes += bytes;
    }
  }
  yield line(false);
}

function lineOf({ type, version, set, gone }: StateTexts, more: boolean): string {
  const entries =
    type === "full" ? `"entries":[${set.join(",")}]` : `"set":[${set.join(",")}],"gone":[${gone.join(",")}]`;
  return `{"type":"${type}","version":${JSON.stringify(version)},${entries}${more ? ',"more":true' : ""}}\n`;
}

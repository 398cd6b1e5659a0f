import { LineCounter, parseAllDocuments, type Node } from "yaml";
import { messageOf } from "../base/errors.ts";
import { Desk, refuseTricks } from "./yaml-shape.ts";

/** A file's text as YAML documents: the walls that stand before any shape is looked at. */
export interface DocumentLimits {
  readonly policyFileBytesMax: number;
  readonly policyDepthMax: number;
}

export interface Documents {
  readonly desk: Desk;
  /** What each document holds; empty ones are left out. None where the file is broken. */
  readonly roots: readonly Node[];
}

/** Never throws on content: what is wrong lies on the desk. */
export function readDocuments(file: { path: string; text: string }, limits: DocumentLimits): Documents {
  const lines = new LineCounter();
  const desk = new Desk(file.path, lines);
  const bytes = Buffer.byteLength(file.text);
  if (bytes > limits.policyFileBytesMax) {
    desk.wrongAt(0, `Cannot read the file: it has ${bytes} bytes, more than ${limits.policyFileBytesMax}`, "Split it");
    return { desk, roots: [] };
  }
  if (tooDeep(file.text, limits.policyDepthMax)) {
    desk.wrongAt(
      0,
      `Cannot read the file: brackets are nested deeper than ${limits.policyDepthMax * 8} levels`,
      "Write it flatter",
    );
    return { desk, roots: [] };
  }
  try {
    return parse(file.text, { desk, lines, limits });
  } catch (thrown) {
    // The parser is recursive; nothing that a file holds may end the process.
    desk.wrongAt(0, `Cannot read the file: ${messageOf(thrown)}`, "Write it flatter");
    return { desk, roots: [] };
  }
}

interface Parsing {
  readonly desk: Desk;
  readonly lines: LineCounter;
  readonly limits: DocumentLimits;
}

function parse(text: string, { desk, lines, limits }: Parsing): Documents {
  const found = parseAllDocuments(text, { lineCounter: lines, prettyErrors: false, version: "1.2", uniqueKeys: true });
  const documents = Array.isArray(found) ? found : [];
  const roots: Node[] = [];
  for (const document of documents) {
    const told = new Set<string>();
    for (const error of [...document.errors, ...document.warnings]) {
      // The parser says the same of one place once for every bracket that stays open there.
      const same = `${error.pos[0]} ${error.message}`;
      if (told.has(same)) continue;
      told.add(same);
      desk.wrongAt(error.pos[0], `Cannot read the file: ${sentence(error.message)}`, "Mend the YAML at this place");
    }
    if (document.errors.length > 0) continue;
    refuseTricks(document, limits.policyDepthMax, desk);
    if (document.contents !== null && desk.problems.length === 0) roots.push(document.contents);
  }
  return { desk, roots: desk.problems.length > 0 ? [] : roots };
}

/** The parser's message as a part of a sentence, without line breaks and its full stop. */
function sentence(message: string): string {
  const line = message.replaceAll(/\s+/g, " ").trim();
  return (line.length > 200 ? `${line.slice(0, 197)}…` : line).replace(/\.$/, "");
}

/** A first look at open brackets, because the parser's time grows with the square of their depth. */
function tooDeep(text: string, depthMax: number): boolean {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0x5b || code === 0x7b) depth++;
    else if ((code === 0x5d || code === 0x7d) && depth > 0) depth--;
    if (depth > depthMax * 8) return true;
  }
  return false;
}

import { styleText } from "node:util";
import type { Refusal } from "../base/errors.ts";

/** Where a command's words go: results to `out`, everything about them to `err`. */
export interface Terminal {
  readonly json: boolean;
  out(text: string): void;
  err(text: string): void;
}

export function streamTerminal(json: boolean): Terminal {
  for (const stream of [process.stdout, process.stderr])
    if (!stream.listeners("error").includes(readerGone)) stream.on("error", readerGone);
  return {
    json,
    out: (text) => void process.stdout.write(text.endsWith("\n") ? text : `${text}\n`),
    err: (text) => void process.stderr.write(text.endsWith("\n") ? text : `${text}\n`),
  };
}

/** Whoever reads may stop at any line, as `head` does: what is left is for nobody, and no reason to end a sidecar. */
function readerGone(error: NodeJS.ErrnoException): void {
  if (error.code !== "EPIPE") throw error;
}

/** The result as JSON where that was asked for, else as text. */
export function show(terminal: Terminal, value: unknown, text: () => string): void {
  terminal.out(terminal.json ? JSON.stringify(value, undefined, 2) : text());
}

/** `error:` what and why, `hint:` what to do next; the code last, so that it can be searched for. */
export function showRefusal(terminal: Terminal, refusal: Pick<Refusal, "code" | "message" | "hint">): void {
  if (terminal.json) {
    terminal.err(JSON.stringify({ code: refusal.code, message: refusal.message, hint: refusal.hint }));
    return;
  }
  // Where a list follows the sentence, the code stands behind the sentence.
  const [sentence, ...more] = refusal.message.trimEnd().split("\n");
  terminal.err([`${paint("red", "error:")} ${sentence} (${refusal.code})`, ...more].join("\n"));
  terminal.err(`${paint("cyan", "hint:")} ${refusal.hint}`);
}

export function paint(colour: "red" | "green" | "cyan" | "yellow" | "dim" | "bold", text: string): string {
  return styleText(colour, text, { stream: process.stderr });
}

/** A table with aligned columns, without lines around them; `empty` is what stands there without a row: "No tokens". */
export function table(header: readonly string[], rows: readonly (readonly string[])[], empty: string): string {
  if (rows.length === 0) return empty;
  // No spread: there may be more rows than a call takes arguments.
  const widths = header.map((title, column) =>
    rows.reduce((width, row) => Math.max(width, (row[column] ?? "").length), title.length),
  );
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd();
  return [line(header), ...rows.map(line)].join("\n");
}

/** `3d 4h`, `12m`, `9s`: the two largest units of a duration. */
export function duration(ms: number): string {
  const sign = ms < 0 ? "-" : "";
  let rest = Math.floor(Math.abs(ms) / 1000);
  const parts: string[] = [];
  for (const [unit, seconds] of [
    ["d", 86_400],
    ["h", 3600],
    ["m", 60],
    ["s", 1],
  ] as const) {
    const count = Math.floor(rest / seconds);
    rest -= count * seconds;
    if (count > 0 && parts.length < 2) parts.push(`${count}${unit}`);
  }
  return sign + (parts.join(" ") || "0s");
}

/** `10m`, `24h`, `30s`, `7d` to milliseconds; undefined for anything else. */
export function readDuration(text: string): number | undefined {
  const match = /^(\d{1,6})(ms|s|m|h|d)$/.exec(text);
  if (match === null) return undefined;
  const units: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
  return Number(match[1]) * (units[match[2] ?? ""] ?? Number.NaN);
}

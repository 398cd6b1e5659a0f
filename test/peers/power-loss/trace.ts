import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";

/** What a process did to the files of one folder, in order: see trace.c. */
export type Event =
  | { readonly is: "created" | "folder" | "synced" | "unlinked" | "mapped"; readonly path: string }
  | { readonly is: "written"; readonly path: string; readonly at: number; readonly data: Buffer }
  | { readonly is: "truncated"; readonly path: string; readonly size: number }
  | { readonly is: "renamed"; readonly path: string; readonly to: string }
  /** Whoever asked has the answer: from here on it must not be forgotten. */
  | { readonly is: "acknowledged"; readonly what: string };

/** Why there can be no trace here; undefined where there can. */
export function whyNoTrace(): string | undefined {
  if (process.platform !== "linux") return "LD_PRELOAD needs Linux";
  if (compiler() === undefined) return "no C compiler (cc, gcc or clang) is installed";
  return undefined;
}

function compiler(): string | undefined {
  return ["cc", "gcc", "clang"].find((name) => spawnSync(name, ["--version"]).status === 0);
}

/** Compiles trace.c into `folder`; gives what LD_PRELOAD is set to. */
export function compileTracer(folder: string): string {
  const library = join(folder, "trace.so");
  const source = join(import.meta.dirname, "trace.c");
  const flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"];
  execFileSync(compiler() ?? "cc", flags);
  return library;
}

const kinds = { C: "created", D: "folder", S: "synced", U: "unlinked", M: "mapped" } as const;

export function readTrace(file: string): Event[] {
  const bytes = readFileSync(file);
  const events: Event[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = at + 4 + bytes.readUInt32LE(at);
    const kind = String.fromCharCode(bytes[at + 4] as number);
    const number = Number(bytes.readBigUInt64LE(at + 5));
    const dataAt = at + 17 + bytes.readUInt32LE(at + 13);
    const path = bytes.toString("utf8", at + 17, dataAt);
    const data = bytes.subarray(dataAt, end);
    at = end;
    if (kind === "W") events.push({ is: "written", path, at: number, data });
    else if (kind === "T") events.push({ is: "truncated", path, size: number });
    else if (kind === "R") events.push({ is: "renamed", path, to: data.toString("utf8") });
    else if (kind === "A") events.push({ is: "acknowledged", what: data.toString("utf8") });
    else if (kind in kinds) events.push({ is: kinds[kind as keyof typeof kinds], path });
    else throw new Error(`no event is called ${JSON.stringify(kind)}`);
  }
  return events;
}

/** The record of an acknowledgement, to be appended to the trace by one write. */
export function acknowledgement(what: string): Buffer {
  const data = Buffer.from(what, "utf8");
  const record = Buffer.alloc(17 + data.length);
  record.writeUInt32LE(13 + data.length, 0);
  record.write("A", 4, "latin1");
  data.copy(record, 17);
  return record;
}

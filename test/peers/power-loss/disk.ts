import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import type { Event } from "./trace.ts";

/**
 * A disk with a cache, as POSIX promises it and no better: what was written counts when its file was synced, and a name counts
 * when its folder was. When the power goes, any of the rest may be there or not, a write also in part; names come in
 * the order in which they were made, as journals keep them.
 */
type Change =
  | { readonly is: "written"; readonly at: number; readonly data: Buffer }
  | { readonly is: "truncated"; readonly size: number };

type Rename =
  | { readonly is: "there"; readonly path: string; readonly content: Content }
  | { readonly is: "gone"; readonly path: string };

/** What becomes of what was not synced. */
export interface Luck {
  /** Of one change: whole, not at all, or only these of its sectors. */
  change(): "kept" | "lost" | "torn";
  /** Whether the sector of a torn write arrived. */
  sector(): boolean;
  /** How many of so many names arrived. */
  names(of: number): number;
}

const sectorBytes = 512;

export class Disk {
  readonly #names = new Map<string, Content>();
  readonly #durable = new Map<string, Content>();
  /** Not synced yet, in their order. */
  #renames: Rename[] = [];

  apply(event: Event): void {
    switch (event.is) {
      case "created":
      case "folder":
        return this.#name(event.path, new Content(event.is === "folder"));
      case "written":
      case "truncated":
        this.#content(event.path).pending.push(event);
        return undefined;
      case "renamed": {
        const content = this.#content(event.path);
        this.#unname(event.path);
        return this.#name(event.to, content);
      }
      case "unlinked":
        return this.#unname(event.path);
      case "synced":
        return this.#synced(event.path);
      case "mapped":
        // SQLite's index of the log: made anew from the log by whoever opens the store.
        if (!event.path.endsWith("-shm")) throw new Error(`writes to ${event.path} cannot be seen: it is mapped`);
        return undefined;
      case "acknowledged":
        return undefined;
    }
  }

  /** What is found after the power has gone now: relative path to content. */
  after(luck: Luck, root: string): Map<string, Buffer> {
    const names = new Map(this.#durable);
    for (const rename of this.#renames.slice(0, luck.names(this.#renames.length))) take(names, rename);
    const found = new Map<string, Buffer>();
    for (const [path, content] of names) {
      if (content.isFolder || path.endsWith("-shm") || !hasFolders(path, names, root)) continue;
      found.set(relative(root, path), content.after(luck));
    }
    return found;
  }

  #name(path: string, content: Content): void {
    this.#names.set(path, content);
    this.#renames.push({ is: "there", path, content });
  }

  #unname(path: string): void {
    this.#names.delete(path);
    this.#renames.push({ is: "gone", path });
  }

  #content(path: string): Content {
    const content = this.#names.get(path);
    if (content === undefined) throw new Error(`${path} was never created`);
    return content;
  }

  #synced(path: string): void {
    const content = this.#names.get(path);
    if (content !== undefined && !content.isFolder) return content.sync();
    for (const rename of this.#renames) if (dirname(rename.path) === path) take(this.#durable, rename);
    this.#renames = this.#renames.filter((rename) => dirname(rename.path) !== path);
  }
}

class Content {
  readonly isFolder: boolean;
  readonly pending: Change[] = [];
  readonly #synced = new Bytes();

  constructor(isFolder: boolean) {
    this.isFolder = isFolder;
  }

  sync(): void {
    for (const change of this.pending.splice(0)) this.#synced.apply(change);
  }

  after(luck: Luck): Buffer {
    const bytes = this.#synced.copy();
    for (const change of this.pending) {
      const fate = luck.change();
      if (fate === "lost") continue;
      if (fate === "kept" || change.is === "truncated") bytes.apply(change);
      else for (const part of sectorsOf(change)) if (luck.sector()) bytes.apply(part);
    }
    return bytes.read();
  }
}

/** A file's content; what lies between what was written is zero. */
class Bytes {
  #space = Buffer.alloc(0);
  #size = 0;

  apply(change: Change): void {
    const size = change.is === "truncated" ? change.size : Math.max(this.#size, change.at + change.data.length);
    if (size > this.#space.length) {
      const space = Buffer.alloc(2 * size);
      this.#space.copy(space, 0, 0, this.#size);
      this.#space = space;
    }
    if (size < this.#size) this.#space.fill(0, size, this.#size);
    this.#size = size;
    if (change.is === "written") change.data.copy(this.#space, change.at);
  }

  copy(): Bytes {
    const other = new Bytes();
    other.#space = Buffer.from(this.read());
    other.#size = this.#size;
    return other;
  }

  read(): Buffer {
    return this.#space.subarray(0, this.#size);
  }
}

function* sectorsOf(change: Extract<Change, { is: "written" }>): Generator<Change> {
  const end = change.at + change.data.length;
  for (let at = change.at; at < end;) {
    const next = Math.min(end, at - (at % sectorBytes) + sectorBytes);
    yield { is: "written", at, data: change.data.subarray(at - change.at, next - change.at) };
    at = next;
  }
}

function take(names: Map<string, Content>, rename: Rename): void {
  if (rename.is === "there") names.set(rename.path, rename.content);
  else names.delete(rename.path);
}

function hasFolders(path: string, names: ReadonlyMap<string, Content>, root: string): boolean {
  for (let folder = dirname(path); folder !== root && folder !== "/"; folder = dirname(folder))
    if (!names.has(folder)) return false;
  return true;
}

export function writeFound(found: ReadonlyMap<string, Buffer>, folder: string): void {
  for (const [path, bytes] of found) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), bytes);
  }
}

import { readFileSync } from "node:fs";
import { childrenOf } from "../hop/measure.ts";

/** Resident memory of a process and its children, in bytes (VmRSS of /proc/PID/status, Linux). */
export function residentOf(pid: number): number {
  let bytes = 0;
  for (const one of [pid, ...childrenOf(pid)]) {
    const { 1: kilobytes } = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${one}/status`, "utf8")) ?? [];
    bytes += Number(kilobytes) * 1024;
  }
  return bytes;
}

/** Waits until the memory of a process has stopped moving, and gives it. */
export async function settled(pid: number): Promise<number> {
  let before = residentOf(pid);
  let still = 0;
  for (let turn = 0; turn < 60 && still < 5; turn++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    const now = residentOf(pid);
    still = Math.abs(now - before) < 512 * 1024 ? still + 1 : 0;
    before = now;
  }
  return before;
}

/** How many file descriptors this process, and so its children, may have open. */
export function descriptorsMax(): number {
  return Number(/^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1] ?? 1024);
}

/** A connection that stands, and says nothing more unless it is asked whether it lives. */
export interface Idle {
  readonly closed: boolean;
  close(): void;
}

export interface Cost {
  readonly count: number;
  /** Bytes of resident memory for each. */
  readonly each: number;
}

/** Opened before the count begins: they make a process load what it loads once. */
export const warmConnections = 1_000;

/**
 * What `count` connections cost a process beside the first few, as growth of its resident memory: nobody collects garbage
 * for it, and what its collector keeps for itself counts. `meanwhile` sees it while they stand.
 */
export async function costOf(of: {
  readonly pid: number;
  readonly count: number;
  open(): Promise<Idle>;
  meanwhile?(): Promise<void>;
}): Promise<Cost> {
  const opened: Idle[] = [];
  try {
    await openMany(opened, { ...of, count: warmConnections });
    const before = await settled(of.pid);
    await openMany(opened, of);
    const after = await settled(of.pid);
    const gone = opened.filter(({ closed }) => closed).length;
    if (gone > 0) throw new Error(`void: ${gone} of ${opened.length} connections were closed meanwhile`);
    await of.meanwhile?.();
    return { count: of.count, each: (after - before) / of.count };
  } finally {
    for (const one of opened) one.close();
  }
}

async function openMany(into: Idle[], of: { count: number; open(): Promise<Idle> }): Promise<void> {
  let left = of.count;
  const worker = async (): Promise<void> => {
    while (left > 0) {
      left--;
      into.push(await of.open());
    }
  };
  await Promise.all(Array.from({ length: 20 }, worker));
}

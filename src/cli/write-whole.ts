import { renameSync, rmSync, writeFileSync } from "node:fs";
import { systemRandom } from "./system.ts";

/** Replaces a file at once, 0600, under a name of its own until it is whole: two commands may do so at the same moment. */
export function writeWhole(file: string, text: string): void {
  const beside = `${file}.${process.pid}-${systemRandom.bytes(6).toString("hex")}.new`;
  try {
    writeFileSync(beside, text, { mode: 0o600, flag: "wx", flush: true });
    renameSync(beside, file);
  } catch (thrown) {
    rmSync(beside, { force: true });
    throw thrown;
  }
}

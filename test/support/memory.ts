import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** Bytes that objects and buffers of this process take, once the garbage is gone. */
export function heldNow(): number {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  collect();
  collect(); // What buffers pointed to is freed behind the first.
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

import { crossingTargets } from "./crossing-targets.ts";
import { engineTargets } from "./engine-targets.ts";
import { flowTargets } from "./flow-targets.ts";
import { http1Targets } from "./http1-targets.ts";
import { http2Targets } from "./http2-targets.ts";
import type { Target } from "./target.ts";

/** All of them, in the order in which `npm run fuzz` takes turns. */
export const targets: readonly Target[] = [
  ...http1Targets,
  ...http2Targets,
  ...crossingTargets,
  ...engineTargets,
  ...flowTargets,
];

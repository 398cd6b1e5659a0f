import type { OptionTable } from "../base/options.ts";

/** Hard walls around what people write. */
export const policyOptions = {
  policyFileBytesMax: {
    env: "HAUBERK_POLICY_FILE_BYTES_MAX",
    default: 262_144,
    min: 1_024,
    max: 4_194_304,
    why: "A file that a person can review is far smaller; a parser's work grows with it.",
  },
  policyDepthMax: {
    env: "HAUBERK_POLICY_DEPTH_MAX",
    default: 16,
    min: 10,
    max: 64,
    why: "The deepest list that a policy needs lies on level 8; deeper nesting is a mistake or an attack.",
  },
  policyProblemsMax: {
    env: "HAUBERK_POLICY_PROBLEMS_MAX",
    default: 100,
    min: 1,
    max: 10_000,
    why: "Nobody mends more at once, and one broken line can bring thousands.",
  },
  policyResourcesMax: {
    env: "HAUBERK_POLICY_RESOURCES_MAX",
    default: 10_000,
    min: 1,
    max: 10_000,
    why: "What one message to the control plane holds.",
  },
} as const satisfies OptionTable;

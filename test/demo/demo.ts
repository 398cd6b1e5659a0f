import { randomBytes } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout } from "node:timers/promises";
import { parseArgs } from "node:util";
import { builtEntry } from "../support/mesh.ts";
import { Stage } from "./stage.ts";
import { steps } from "./steps.ts";

/**
 * The main job, on real processes: npm run demo [-- --keep] [-- --sabotage=STEP] [-- --folder DIR].
 * Exits 0 only if every step was seen to happen.
 */
const { values } = parseArgs({
  options: {
    keep: { type: "boolean", default: false },
    sabotage: { type: "string" },
    folder: { type: "string" },
    help: { type: "boolean", default: false },
  },
});

if (values.help) {
  console.log("Usage: npm run demo -- [--keep] [--folder DIR] [--sabotage=STEP]\n\nSteps:");
  for (const step of steps) console.log(`  ${step.name.padEnd(16)} ${step.title}`);
  process.exit(0);
}
if (values.sabotage !== undefined && !steps.some((step) => step.name === values.sabotage)) {
  console.error(
    `There is no step "${values.sabotage}" to sabotage; the steps are ${steps.map((step) => step.name).join(", ")}`,
  );
  process.exit(2);
}

const folder = resolve(values.folder ?? `demo-mesh/${randomBytes(4).toString("hex")}`);
mkdirSync(folder, { recursive: true });
const stage = new Stage({ folder, entry: builtEntry, sabotage: values.sabotage });
const startedMs = performance.now();
const results: { step: string; title: string; happened: boolean; tookMs: number; seen?: string; because?: string }[] =
  [];
let failed: string | undefined;

const interrupt = new AbortController();
const interruption = new Promise<never>((_, reject) => {
  interrupt.signal.addEventListener("abort", () => reject(new Error("interrupted")));
});
// A signal that nobody waits for any more is no fault.
interruption.catch(() => undefined);
// Not once: npm hands on what the terminal sent already, and nothing may be left running by a second one.
process.on("SIGINT", () => interrupt.abort());
/** Ctrl-C reaches the programs, too: what a step asks of them may fail a moment before it is heard of here. */
const sameMomentMs = 200;

console.log(`\nHauberk: a mesh in ${folder}\n`);
for (const [index, step] of steps.entries()) {
  const label = `${String(index + 1).padStart(2)}. ${step.title}`;
  const beganMs = performance.now();
  try {
    const seen = await Promise.race([step.run(stage, values.sabotage === step.name), interruption]);
    results.push({
      step: step.name,
      title: step.title,
      happened: true,
      tookMs: Math.round(performance.now() - beganMs),
      seen,
    });
    console.log(`${label}\n    ${seen.replaceAll("\n", "\n    ")}`);
  } catch (thrown) {
    if (!interrupt.signal.aborted) await setTimeout(sameMomentMs);
    const { aborted } = interrupt.signal;
    const because = aborted ? "interrupted" : thrown instanceof Error ? thrown.message : String(thrown);
    results.push({
      step: step.name,
      title: step.title,
      happened: false,
      tookMs: Math.round(performance.now() - beganMs),
      because,
    });
    console.log(`${label}\n    ${aborted ? "Interrupted" : `DID NOT HAPPEN: ${because}`}`);
    failed = step.name;
    break;
  }
}

const tookMs = Math.round(performance.now() - startedMs);
const report = join(folder, "report.json");
writeFileSync(
  report,
  `${JSON.stringify({ ok: failed === undefined, failed: failed ?? null, tookMs, steps: results, ...stage.report }, undefined, 2)}\n`,
);

if (failed === undefined)
  console.log(`\nAll ${steps.length} steps happened, in ${(tookMs / 1000).toFixed(1)} s. The report: ${report}`);
else if (interrupt.signal.aborted)
  console.log(
    `\nInterrupted in step "${failed}"; what was started ends. The report: ${report}; the logs: ${join(folder, "logs")}`,
  );
else console.log(`\nStep "${failed}" did not happen. The report: ${report}; the logs: ${join(folder, "logs")}`);

if (values.keep && failed === undefined) {
  console.log(stage.howToPlay());
  await interruption.catch(() => undefined);
}
await stage.end();
// A step that was interrupted may still be waiting for something.
process.exit(interrupt.signal.aborted ? 130 : failed === undefined ? 0 : 1);

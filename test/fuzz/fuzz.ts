import { parseArgs } from "node:util";
import { runFuzz, type Finding } from "./run.ts";
import { targets } from "./targets.ts";

/** `npm run fuzz -- [--cases N] [--seed N] [--target NAME] [--path PATH]`: generated inputs for every parser and engine. */
const { values } = parseArgs({
  options: {
    cases: { type: "string" },
    seed: { type: "string" },
    target: { type: "string" },
    path: { type: "string" },
  },
});
const cases = Number(values.cases ?? 10_000_000);
const seed = Number(values.seed ?? Date.now() % 2 ** 31);
const chosen = values.target === undefined ? targets : targets.filter(({ name }) => name === values.target);
if (!Number.isSafeInteger(cases) || cases < 1 || !Number.isInteger(seed) || chosen.length === 0) {
  process.stderr.write(
    `Cannot fuzz: --cases and --seed take whole numbers, --target one of ${targets.map(({ name }) => name).join(", ")}\n`,
  );
  process.exit(2);
}

process.stdout.write(
  `seed ${seed}, ${cases.toLocaleString("en")} cases over ${chosen.map(({ name }) => name).join(", ")}\n`,
);
const beganMs = performance.now();
let saidMs = 0;
const progress = (done: number, findings: number): void => {
  const nowMs = performance.now();
  if (nowMs - saidMs < (process.stderr.isTTY ? 500 : 15_000)) return;
  saidMs = nowMs;
  const perSecond = Math.round((done * 1000) / (nowMs - beganMs));
  const line = `${done.toLocaleString("en")} cases, ${perSecond.toLocaleString("en")}/s, ${findings} findings`;
  process.stderr.write(process.stderr.isTTY ? `\r${line}   ` : `${line}\n`);
};
const found = (finding: Finding): void => void process.stdout.write(`${describe(finding)}\n`);
const { cases: done, findings } = await runFuzz({ cases, seed, targets: chosen, path: values.path, progress, found });
if (process.stderr.isTTY) process.stderr.write("\n");
const seconds = ((performance.now() - beganMs) / 1000).toFixed(1);
process.stdout.write(`${done.toLocaleString("en")} cases in ${seconds} s, ${findings.length} findings\n`);
process.exit(findings.length === 0 ? 0 : 1);

function describe({ target, seed: of, path, report }: Finding): string {
  return `\nFinding: ${target}\n${report}\nAgain: npm run fuzz -- --target ${target} --seed ${of} --path ${path}`;
}

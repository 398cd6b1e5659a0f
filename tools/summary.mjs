import { readFileSync } from "node:fs";

/** The last line of the gate: how many tests passed and failed; a step that failed beside them counts as one. */
const [report, failedSteps] = process.argv.slice(2);
let counts = { numPassedTests: 0, numFailedTests: 0, numPendingTests: 0 };
try {
  counts = JSON.parse(readFileSync(report, "utf8"));
} catch (thrown) {
  console.error(`Cannot read ${report}: ${thrown.message}`);
}
const skipped = counts.numPendingTests ?? 0;
if (skipped > 0) console.log(`${skipped} tests were skipped although every peer should be here: a skip fails the gate`);
const failed = counts.numFailedTests + skipped + (counts.numFailedTests > 0 ? 0 : Number(failedSteps));
console.log(`${counts.numPassedTests} passed, ${failed} failed`);
process.exitCode = failed > 0 || counts.numPassedTests === 0 ? 1 : 0;

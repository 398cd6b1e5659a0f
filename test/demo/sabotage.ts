import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { steps } from "./steps.ts";

/**
 * Every step of the demo must be able to fail: each is run with its own mechanism broken, and must end with 1, naming the step.
 * npm run sabotage [-- STEP…]. Two at a time: each starts a mesh of its own.
 */
const demo = fileURLToPath(new URL("demo.ts", import.meta.url));
const wanted = process.argv.slice(2);
const queue = steps.map((step) => step.name).filter((name) => wanted.length === 0 || wanted.includes(name));
const bad: string[] = [];
const total = queue.length;

await Promise.all([worker(), worker()]);
console.log(bad.length === 0 ? `All ${total} sabotaged steps failed as they must` : `Not caught: ${bad.join(", ")}`);
process.exitCode = bad.length === 0 && total > 0 ? 0 : 1;

async function worker(): Promise<void> {
  for (let name = queue.shift(); name !== undefined; name = queue.shift()) {
    const { code, text } = await run(name);
    const caught = code === 1 && text.includes(`Step "${name}" did not happen`);
    console.log(
      `${caught ? "caught    " : "NOT CAUGHT"} ${name}: exit ${code}, ${/DID NOT HAPPEN: (.*)/.exec(text)?.[1]?.slice(0, 160) ?? "every step happened"}`,
    );
    if (!caught) bad.push(name);
  }
}

function run(name: string): Promise<{ code: number; text: string }> {
  const folder = mkdtempSync(join(tmpdir(), "hauberk-sabotage-"));
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [demo, `--sabotage=${name}`, "--folder", folder], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    let text = "";
    child.stdout.on("data", (chunk: Buffer) => (text += chunk.toString("utf8")));
    child.stderr.on("data", (chunk: Buffer) => (text += chunk.toString("utf8")));
    child.once("close", (code) => {
      rmSync(folder, { recursive: true, force: true });
      resolve({ code: code ?? -1, text });
    });
  });
}

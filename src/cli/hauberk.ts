#!/usr/bin/env node
/** What `bin` starts: an old Node gets a sentence, not a syntax error, so this file imports nothing before it looked. */
const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < 24 || (major === 24 && minor < 17)) {
  const code = "NODE_TOO_OLD";
  process.stderr.write(
    `error: Cannot start hauberk: this is Node ${process.versions.node}, wanted 24.17 or later (${code})\n` +
      "hint: Install Node 24 or 26 from https://nodejs.org, then run the same command again\n",
  );
  process.exitCode = 69;
} else {
  // A sidecar starts in time without the cache, and its code would stand in memory twice: 1.2 MB for as long as it runs.
  const isSidecar = process.argv[2] === "run" || process.argv[2] === "proxy";
  if (!isSidecar) (await import("node:module")).enableCompileCache();
  const { main } = await import("./main.ts");
  process.exitCode = await main(process.argv.slice(2));
}

import { expect, test } from "vitest";
import { codeOf, listed, read, sources } from "./source.ts";

interface Ban {
  readonly name: string;
  readonly pattern: RegExp;
  readonly instead: string;
  /** The files that may. */
  readonly allowed?: readonly string[];
}

const system = "src/cli/system.ts";

const bans: readonly Ban[] = [
  { name: "Date.now", pattern: /\bDate\.now\b/, instead: "clock.wallMs()", allowed: [system] },
  { name: "new Date()", pattern: /\bnew Date\(\s*\)/, instead: "new Date(clock.wallMs())" },
  { name: "setTimeout", pattern: /\bsetTimeout\s*\(/, instead: "clock.after()", allowed: [system] },
  { name: "setInterval", pattern: /\bsetInterval\s*\(/, instead: "repeat(clock, …)" },
  { name: "Math.random", pattern: /\bMath\.random\b/, instead: "random.draw()", allowed: [system] },
  { name: "performance.now", pattern: /\bperformance\.now\b/, instead: "clock.monotonicMs()", allowed: [system] },
  { name: "crypto.randomUUID", pattern: /\brandomUUID\b/, instead: "randomId(random)" },
  {
    name: "randomBytes",
    pattern: /\brandomBytes\b/,
    instead: "random.bytes()",
    allowed: [system, "src/x509/encrypted-key.ts", "src/x509/pkcs12.ts"],
  },
  { name: "global fetch", pattern: /(?<![.\w])fetch\s*\(/, instead: "undici, behind the room that needs it" },
  { name: "process.env", pattern: /\bprocess\.env\b/, instead: "options, handed down", allowed: [system] },
  { name: "console", pattern: /\bconsole\.\w+\s*\(/, instead: "the Logger, or the terminal of cli" },
  {
    name: "rejectUnauthorized: false",
    pattern: /rejectUnauthorized["']?\s*:\s*false/,
    instead: "a verified connection; only the enrollment pins digests",
    allowed: ["src/identity/pinned-roots.ts"],
  },
];

function broken(ban: Ban, name: string, text: string): string[] {
  if (ban.allowed?.includes(name) === true) return [];
  const lines = codeOf(text).split("\n");
  return lines.flatMap((line, index) =>
    ban.pattern.test(line) ? [`${name}:${index + 1}: ${ban.name}: use ${ban.instead}`] : [],
  );
}

for (const ban of bans) {
  test(`src says ${ban.name} nowhere but where it is allowed`, () => {
    const found = sources()
      .filter((name) => !name.endsWith(".test.ts"))
      .flatMap((name) => broken(ban, name, read(name)));
    expect(found).toEqual([]);
  });
}

test("each ban sees its own breach", () => {
  const samples = [
    "Date.now()",
    "new Date()",
    "setTimeout(f, 1)",
    "setInterval(f, 1)",
    "Math.random()",
    "performance.now()",
    "crypto.randomUUID()",
    "randomBytes(3)",
    "await fetch(url)",
    "process.env.X",
    "console.log(1)",
    "rejectUnauthorized: false",
  ];
  for (const [index, ban] of bans.entries()) expect(broken(ban, "src/x/y.ts", samples[index] ?? "")).toHaveLength(1);
});

test("tests do not sleep", () => {
  const sleeping = listed()
    .filter((name) => name.endsWith(".test.ts") && name !== "test/tidy/bans.test.ts")
    .filter((name) => /setTimeout\(\s*(resolve|r|done|ok)\b|\bsleep\(|timers\/promises/.test(codeOf(read(name))));
  expect(sleeping).toEqual([]);
});

test("no folder is named util, common, helpers or misc", () => {
  const bad = listed().filter((name) => /(^|\/)(utils?|common|helpers?|misc|managers?)\//.test(name));
  expect(bad).toEqual([]);
});

test("no private key is in git, and no file is over 256 KiB", () => {
  const keys: string[] = [];
  const large: string[] = [];
  for (const name of listed()) {
    const text = read(name);
    if (/-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/]{40}/.test(text)) keys.push(name);
    if (Buffer.byteLength(text) > 256 * 1024 && name !== "package-lock.json") large.push(name);
  }
  expect({ keys, large }).toEqual({ keys: [], large: [] });
});

test("nothing is left to mend by name", () => {
  const word = ["FIX", "ME"].join("");
  expect(listed().filter((name) => read(name).includes(word))).toEqual([]);
});

import { expect, test } from "vitest";
import { HauberkError } from "../base/errors.ts";
import { helpOf, readInput, type Command, type Input } from "./command.ts";
import { commands } from "./commands.ts";
import type { Terminal } from "./terminal.ts";

const terminal: Terminal = { json: false, out: () => undefined, err: () => undefined };
const around = { environment: {}, terminal, cwd: "/" };

const walk: Command = {
  name: "walk",
  summary: "Walk somewhere",
  usage: "[PLACE] -- PROGRAM",
  words: [0, 1],
  program: true,
  flags: {
    speed: { value: "KMH", short: "k", why: "How fast" },
    by: { value: "PLACE", many: true, why: "Where to pass" },
    quiet: { why: "Say nothing" },
  },
  examples: ["hauberk walk home"],
  load: () => Promise.reject(new Error("not loaded in tests")),
};

function read(args: readonly string[], command: Command = walk): Input {
  return readInput(command, args, around);
}

function refusalOf(work: () => unknown): HauberkError {
  try {
    work();
  } catch (thrown) {
    if (thrown instanceof HauberkError) return thrown;
    throw thrown;
  }
  throw new Error("nothing was refused");
}

test("the help of certs list says what its column SEEN means, before the examples", () => {
  const command = commands.find(({ name }) => name === "certs list");
  if (command === undefined) throw new Error("there is no certs list");
  expect(helpOf(command)).toMatch(/\nSEEN: yes once its workload has connected .*\n\nExamples:\n/);
});

test("flags, repeated flags, switches and words are read apart", () => {
  const input = read(["-k", "5", "--by=sea", "home", "--by", "shore", "--quiet"]);
  expect(input.flag("speed")).toBe("5");
  expect(input.flags("by")).toEqual(["sea", "shore"]);
  expect(input.on("quiet")).toBe(true);
  expect(input.words).toEqual(["home"]);
  expect(input.program).toEqual([]);
});

test("a flag that was not given is undefined, no value and off", () => {
  const input = read([]);
  expect([input.flag("speed"), input.flags("by"), input.on("quiet")]).toEqual([undefined, [], false]);
});

test("everything after -- belongs to the program, flags of ours included", () => {
  const input = read(["--quiet", "--", "node", "--speed", "9", "--", "x"]);
  expect(input.program).toEqual(["node", "--speed", "9", "--", "x"]);
  expect(input.flag("speed")).toBeUndefined();
});

test("a flag that no table knows is refused by name", () => {
  const refusal = refusalOf(() => read(["--sped", "5", "--", "sh"]));
  expect(refusal).toMatchObject({ code: "USAGE", hint: "Did you mean --speed? See hauberk walk --help" });
  expect(refusal.message).toContain("--sped");
  expect(refusalOf(() => read(["--whatever", "--", "sh"])).hint).toBe("See hauberk walk --help");
});

test("a flag with a single value is refused when it stands twice", () => {
  expect(refusalOf(() => read(["--speed", "5", "-k", "6"])).message).toContain("--speed stands more than once");
});

test("a value flag without its value, and a switch with one, are refused", () => {
  expect(refusalOf(() => read(["--speed"])).code).toBe("USAGE");
  expect(refusalOf(() => read(["--quiet=yes"])).code).toBe("USAGE");
});

test("too many words and too few are refused", () => {
  const few: Command = { ...walk, usage: "[PLACE]", program: false };
  expect(refusalOf(() => read(["home", "again"], few)).message).toContain('"again" stands where no word belongs');
  const needy: Command = { ...walk, words: [1, 1], usage: "PLACE", program: false };
  const refusal = refusalOf(() => read([], needy));
  expect(refusal.message).toContain("PLACE is missing");
  expect(refusal.hint).toBe("Write hauberk walk PLACE");
  const secret = refusalOf(() => read(["home", "eyJhbGciOiJFUzI1NiIsInR5cCI6"], few));
  expect(secret.message).toContain("a word stands where no word belongs");
});

test("a program without -- before it is told where -- belongs", () => {
  const place = { hint: "Put -- before it: hauberk walk … -- curl …" };
  for (const args of [
    ["home", "curl", "http://orders/"],
    // Flags of the program that are ours too, ours with another meaning, and nobody's.
    ["home", "--speed", "5", "curl", "-k", "6"],
    ["home", "curl", "-k"],
    ["home", "curl", "-X", "GET"],
  ]) {
    const refusal = refusalOf(() => read(args));
    expect(refusal.message).toBe(
      'Cannot run this command: -- is missing before the program, which seems to begin with "curl"',
    );
    expect(refusal).toMatchObject(place);
  }
  const secret = refusalOf(() => read(["home", "eyJhbGciOiJFUzI1NiIsInR5cCI6"]));
  expect(`${secret.message} ${secret.hint}`).not.toContain("eyJ");
  expect(refusalOf(() => read(["--sped", "5", "home", "curl"])).message).toContain("--sped");
});

test("no name of a flag reaches what every object has", () => {
  const input = read([]);
  expect(refusalOf(() => read(["--constructor"])).code).toBe("USAGE");
  expect(input.on("quiet")).toBe(false);
});

test("help shows usage, every flag with its reason, and the examples", () => {
  const help = helpOf(walk);
  expect(help).toContain("Usage: hauberk walk [PLACE] -- PROGRAM");
  expect(help).toContain("-k, --speed KMH  How fast");
  expect(help).toContain("--by PLACE   Where to pass (may be repeated)");
  expect(help).toContain("Examples:\n  hauberk walk home");
});

for (const command of commands) {
  test(`hauberk ${command.name} has examples that its own table accepts`, () => {
    expect(command.examples.length).toBeGreaterThan(0);
    for (const example of command.examples) {
      const words = `hauberk ${command.name}`;
      expect(`${example} `.startsWith(`${words} `)).toBe(true);
      readInput(command, example.slice(words.length).split(" ").filter(Boolean), around);
    }
  });

  test(`hauberk ${command.name} refuses a flag that it does not know`, () => {
    const words = Array.from({ length: command.words[0] }, () => "x");
    expect(refusalOf(() => readInput(command, [...words, "--no-such-flag"], around)).code).toBe("USAGE");
  });

  test(`hauberk ${command.name} gives a reason for every flag, and no two share a letter`, () => {
    const flags = Object.values(command.flags);
    expect(flags.filter((flag) => flag.why.length < 8)).toEqual([]);
    const letters = flags.flatMap((flag) => flag.short ?? []);
    expect(new Set(letters).size).toBe(letters.length);
  });
}

test("every command is there once, and can be loaded", async () => {
  const names = commands.map((command) => command.name);
  expect(new Set(names).size).toBe(names.length);
  for (const command of commands) expect(typeof (await command.load())).toBe("function");
});

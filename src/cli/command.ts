import { parseArgs } from "node:util";
import { HauberkError } from "../base/errors.ts";
import { suggest } from "../policy/suggest.ts";
import type { Environment } from "./system.ts";
import type { Terminal } from "./terminal.ts";

/** A command as data: the same table feeds the parser, the help and the completeness tests. */
export interface Flag {
  /** Its value's name in the help; none for a switch. */
  readonly value?: string;
  readonly short?: string;
  readonly many?: boolean;
  readonly why: string;
}

export interface Command {
  /** `token create` */
  readonly name: string;
  readonly summary: string;
  /** What follows the name, as the help shows it. */
  readonly usage: string;
  readonly flags: Readonly<Record<string, Flag>>;
  /** What the help says beside the flags, such as what a column means. */
  readonly note?: string;
  readonly examples: readonly string[];
  /** Positional words: at least, at most. */
  readonly words: readonly [number, number];
  /** Whether everything after `--` is a program to start. */
  readonly program?: boolean;
  /** Loads the implementation only when it is needed: a sidecar must not pay for the rest. */
  readonly load: () => Promise<Run>;
}

export interface Input {
  readonly words: readonly string[];
  readonly program: readonly string[];
  readonly environment: Environment;
  readonly terminal: Terminal;
  readonly cwd: string;
  flag(name: string): string | undefined;
  flags(name: string): readonly string[];
  on(name: string): boolean;
}

/** Gives the exit code. */
export type Run = (input: Input) => Promise<number>;

/** Exit codes (DESIGN, section 11; 69 and 70 after sysexits). */
export const exits = { done: 0, negative: 1, usage: 2, unavailable: 69, bug: 70 } as const;

export function usageError(message: string, hint: string): HauberkError {
  return new HauberkError("USAGE", `Cannot run this command: ${message}`, hint);
}

/** Reads the words after a command's name; what the table does not know is refused. */
export function readInput(
  command: Command,
  args: readonly string[],
  around: Pick<Input, "environment" | "terminal" | "cwd">,
): Input {
  const split = command.program === true ? args.indexOf("--") : -1;
  const own = split < 0 ? args : args.slice(0, split);
  const program = split < 0 ? [] : args.slice(split + 1);
  const hint = `See hauberk ${command.name} --help${command.program === true && split < 0 ? "; the program and its own flags stand after --" : ""}`;
  if (command.program === true && split < 0) refuseWithoutDashes(command, own);
  const { values, positionals } = parse(command, own, hint);
  const [least, most] = command.words;
  if (positionals.length < least || positionals.length > most) {
    throw usageError(
      positionals.length < least
        ? `${command.usage.split(" ")[positionals.length] ?? "a word"} is missing`
        : `${shownWord(positionals[most])} stands where no word belongs`,
      `Write hauberk ${command.name} ${command.usage}`.trimEnd(),
    );
  }
  return {
    ...around,
    words: positionals,
    program,
    flag: (name) => values[name]?.at(-1),
    flags: (name) => values[name] ?? [],
    on: (name) => values[name] !== undefined,
  };
}

/** A program that stands without -- before it: its own flags would be taken for ours, and the refusal would blame those. */
function refuseWithoutDashes(command: Command, args: readonly string[]): void {
  const { tokens } = parseArgs({
    args: [...args],
    options: optionsOf(command),
    allowPositionals: true,
    strict: false,
    tokens: true,
  });
  let words = 0;
  for (const token of tokens) {
    // What follows a flag that nobody knows may be its value.
    if (token.kind === "option" && !Object.hasOwn(command.flags, token.name)) return;
    if (token.kind !== "positional" || ++words <= command.words[1]) continue;
    throw usageError(
      `-- is missing before the program, which seems to begin with ${shownWord(token.value)}`,
      `Put -- before it: hauberk ${command.name} … -- ${token.value.length > 20 ? "PROGRAM" : token.value} …`,
    );
  }
}

type ParseOptions = Record<string, { type: "string" | "boolean"; multiple: boolean; short?: string }>;

function optionsOf(command: Command): ParseOptions {
  const options: ParseOptions = {};
  for (const [name, flag] of Object.entries(command.flags)) {
    options[name] = {
      type: flag.value === undefined ? "boolean" : "string",
      multiple: true,
      ...(flag.short === undefined ? {} : { short: flag.short }),
    };
  }
  return options;
}

function parse(
  command: Command,
  args: readonly string[],
  hint: string,
): { values: Record<string, string[]>; positionals: string[] } {
  try {
    const parsed = parseArgs({ args: [...args], options: optionsOf(command), allowPositionals: true, strict: true });
    const values: Record<string, string[]> = {};
    for (const [name, value] of Object.entries(parsed.values)) {
      values[name] = (Array.isArray(value) ? value : [value]).map(String);
      if (command.flags[name]?.many !== true && values[name].length > 1) {
        throw usageError(`--${name} stands more than once`, hint);
      }
    }
    return { values, positionals: parsed.positionals };
  } catch (thrown) {
    if (thrown instanceof HauberkError) throw thrown;
    const said = (thrown instanceof Error ? thrown.message : String(thrown)).split(/[.\n]/)[0] ?? "";
    throw usageError(said, suggestFlag(command, said) ?? hint);
  }
}

/** What somebody wrote in the wrong place may be a secret: only short words are said again. */
export function shownWord(word = ""): string {
  return word.length > 20 ? "a word" : JSON.stringify(word);
}

/** For a flag that is nearly one. */
function suggestFlag(command: Command, said: string): string | undefined {
  const [, unknown] = /^Unknown option '--([^']+)'/.exec(said) ?? [];
  const meant = unknown === undefined ? undefined : suggest(unknown, Object.keys(command.flags));
  return meant === undefined ? undefined : `Did you mean --${meant}? See hauberk ${command.name} --help`;
}

/** A command's help, from its table. */
export function helpOf(command: Command): string {
  const lines = [command.summary, "", `Usage: hauberk ${command.name} ${command.usage}`.trimEnd(), ""];
  const rows = Object.entries(command.flags).map(([name, flag]): [string, string] => [
    `${flag.short === undefined ? "   " : `-${flag.short},`} --${name}${flag.value === undefined ? "" : ` ${flag.value}`}`,
    `${flag.why}${flag.many === true ? " (may be repeated)" : ""}`,
  ]);
  const width = Math.max(0, ...rows.map(([left]) => left.length));
  if (rows.length > 0) lines.push("Options:", ...rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`), "");
  if (command.note !== undefined) lines.push(command.note, "");
  lines.push("Examples:", ...command.examples.map((example) => `  ${example}`), "");
  return lines.join("\n");
}

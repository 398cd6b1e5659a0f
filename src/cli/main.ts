import { HauberkError, messageOf, failures } from "../base/errors.ts";
import { exits, helpOf, readInput, shownWord, usageError, type Command } from "./command.ts";
import { commands } from "./commands.ts";
import { endOnCrash } from "./crash.ts";
import { suggest } from "../policy/suggest.ts";
import { showRefusal, streamTerminal, type Terminal } from "./terminal.ts";
import { systemEnvironment } from "./system.ts";
import { release } from "./release.ts";

/** Turns words into calls, and errors into hints. */
export async function main(argv: readonly string[]): Promise<number> {
  const own = argv.includes("--") ? argv.slice(0, argv.indexOf("--")) : argv;
  const terminal = streamTerminal(own.includes("--json"));
  endOnCrash((thrown) => void fail(thrown, terminal));
  try {
    return await dispatch(argv, terminal);
  } catch (thrown) {
    return fail(thrown, terminal);
  } finally {
    endOnCrash(undefined);
  }
}

async function dispatch(argv: readonly string[], terminal: Terminal): Promise<number> {
  const [first] = argv;
  if (first === "help" && argv.length > 1) return dispatch([...argv.slice(1), "--help"], terminal);
  if (first === undefined || first === "--help" || first === "-h" || first === "help") {
    terminal.out(overview());
    return first === undefined ? exits.usage : exits.done;
  }
  if (first === "--version" || first === "-v") {
    terminal.out(`hauberk ${release}`);
    return exits.done;
  }
  const command = find(argv);
  if (command === undefined) {
    const family = familyOf(first);
    if (family.length === 0 || !(argv[1] === "--help" || argv[1] === "-h")) throw unknownCommand(argv, family);
    terminal.out(`Commands:\n${list(family)}`);
    return exits.done;
  }
  const rest = argv.slice(command.name.split(" ").length);
  const split = rest.indexOf("--");
  const own = split < 0 ? rest : rest.slice(0, split);
  if (own.includes("--help") || own.includes("-h")) {
    terminal.out(helpOf(command));
    return exits.done;
  }
  const run = await command.load();
  return run(readInput(command, rest, { environment: systemEnvironment(), terminal, cwd: process.cwd() }));
}

function find(argv: readonly string[]): Command | undefined {
  return commands.find((command) => command.name.split(" ").every((word, index) => argv[index] === word));
}

function familyOf(first: string): readonly Command[] {
  return commands.filter((command) => command.name.startsWith(`${first} `));
}

function unknownCommand([first = "", second]: readonly string[], family: readonly Command[]): HauberkError {
  const members = family.map((command) => command.name.split(" ")[1] ?? "");
  if (family.length > 0 && (second === undefined || second.startsWith("-")))
    return usageError(`"${first}" needs one of ${members.join(", ")}`, `See hauberk ${first} --help`);
  if (family.length > 0) {
    const nearly = suggest(second ?? "", members);
    return usageError(
      `${shownWord(second)} is no command of "${first}", which has ${members.join(", ")}`,
      `${nearly === undefined ? "" : `Did you mean hauberk ${first} ${nearly}? `}See hauberk ${first} --help`,
    );
  }
  const meant = suggest(first, [...new Set(commands.map((command) => command.name.split(" ")[0] ?? ""))]);
  return usageError(
    `there is no command ${shownWord(first)}`,
    meant === undefined ? "See hauberk --help" : `Did you mean hauberk ${meant}? See hauberk --help`,
  );
}

function list(some: readonly Command[]): string {
  const width = Math.max(...some.map((command) => command.name.length));
  return some.map((command) => `  ${command.name.padEnd(width)}  ${command.summary}`).join("\n");
}

function overview(): string {
  return [
    `hauberk ${release}: an mTLS-first service mesh`,
    "",
    "Usage: hauberk COMMAND [OPTIONS]",
    "",
    "Commands:",
    list(commands),
    "",
    "Examples:",
    "  hauberk init                                              a mesh home here, with its own CA",
    "  hauberk control                                           the control plane",
    "  hauberk token create --service orders --out orders.token  an enrollment token, good once for 10 minutes",
    "  hauberk run --service orders --app http:8080 --token-file orders.token -- node app.js",
    "  hauberk run --service web --token-file web.token -- curl http://orders/orders/1",
    "",
    "Every command has --help with examples; hauberk --version says which release this is.",
    "Exit codes: 0 done, 1 a negative answer, 2 usage, 69 unavailable, 70 a bug.",
  ].join("\n");
}

const unavailable: ReadonlySet<string> = new Set([
  "UNAVAILABLE",
  "CONTROL_UNREACHABLE",
  "STORE_FAILED",
  "CONNECT_FAILED",
  "PORT_TAKEN",
  "STATE_LOCKED",
  "RATE_LIMITED",
  "ROOT_NOT_PINNED",
  "CONTROL_NOT_PROVEN",
]);
const usage: ReadonlySet<string> = new Set([
  "USAGE",
  "CONFIG_INVALID",
  "TOKEN_NEEDED",
  "PASSPHRASE_MISSING",
  "HOME_MISSING",
  "HOME_EXISTS",
]);

/** The path that the system keeps from this user: a start with sudo leaves folders that nobody else may enter. */
function forbidden(thrown: unknown): string | undefined {
  if (!(thrown instanceof Error) || !("path" in thrown) || typeof thrown.path !== "string") return undefined;
  const { code } = thrown as NodeJS.ErrnoException;
  return code === "EACCES" || code === "EPERM" || code === "EROFS" ? thrown.path : undefined;
}

function fail(thrown: unknown, terminal: Terminal): number {
  if (thrown instanceof HauberkError && thrown.code in failures && thrown.code !== "BUG") {
    showRefusal(terminal, thrown);
    if (usage.has(thrown.code)) return exits.usage;
    return unavailable.has(thrown.code) ? exits.unavailable : exits.negative;
  }
  const place = forbidden(thrown);
  if (place !== undefined) {
    showRefusal(terminal, {
      code: "USAGE",
      message: `Cannot use ${place}: this user may not`,
      hint: "Run this as the user whom it belongs to, or name another place (--home, --state)",
    });
    return exits.usage;
  }
  showRefusal(terminal, {
    code: "BUG",
    message: `Cannot go on: ${messageOf(thrown)}`,
    hint: "This is a bug of Hauberk; report it with what follows",
  });
  if (thrown instanceof Error && thrown.stack !== undefined) terminal.err(thrown.stack);
  return exits.bug;
}

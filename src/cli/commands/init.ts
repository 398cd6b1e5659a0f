import { accessSync, constants, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline/promises";
import { HauberkError, isRefusal } from "../../base/errors.ts";
import { isTrustDomain } from "../../base/spiffe-id.ts";
import { makeCa } from "../../authority/init.ts";
import { makeFolder } from "../../identity/make-folder.ts";
import { exits, usageError, type Input, type Run } from "../command.ts";
import { ignoreSecrets } from "../git-ignore.ts";
import { homeAt, readSecretFile, stateHome, type Home } from "../home.ts";
import { issueAdmin, passphraseFile, passphrasesFolder, withAuthority } from "../open-authority.ts";
import { onEnd } from "../signals.ts";
import { systemClock, systemRandom } from "../system.ts";
import { show } from "../terminal.ts";

/** The first administrator, so that the other commands work at once. */
const firstAdmin = "admin";

export const run: Run = async (input) => {
  const home = homeAt(resolve(input.cwd, input.words[0] ?? "."));
  if (existsSync(join(home.ca, "root.key")) || existsSync(join(home.ca, "root.crt"))) throw homeExists(home);
  const trustDomain = await chooseTrustDomain(input, home);
  const made = { root: passphrase(input, "root-passphrase-file"), issuing: passphrase(input, "passphrase-file") };
  openFolder(home.folder, "make a mesh home in");
  // A CA whose passphrases could not be kept could never be opened again.
  if (made.root.file === undefined || made.issuing.file === undefined)
    openFolder(passphrasesFolder(stateHome(input.environment)), "keep passphrases in", 0o700);
  const forget = onEnd({
    ask: () => {
      input.terminal.err("The mesh home is finished first: half of one would be of no use");
      return true;
    },
  });
  try {
    return await make(input, home, { ...made, trustDomain });
  } finally {
    forget();
  }
};

/** A kill -9 or a power loss may have ended init at any step: what is missing is named in the order in which it is made. */
function homeExists(home: Home): HauberkError {
  const refuse = (what: string, hint: string): HauberkError =>
    new HauberkError("HOME_EXISTS", `Cannot make a mesh home in ${home.folder}: ${what}`, hint);
  if (!existsSync(home.configFile))
    return refuse(
      "there is a CA, and no hauberk.yaml",
      "Put hauberk.yaml back; or, where nobody uses this CA yet, remove ca/ and run hauberk init again",
    );
  const admins = join(home.certs, "admin");
  const isAdmin = (name: string): boolean => name.endsWith(".pem") && name !== "roots.pem";
  if (!existsSync(admins) || !readdirSync(admins).some(isAdmin))
    return refuse(
      "it has a CA already, but certs/admin holds no administrator",
      `Make the administrator there: hauberk admin issue ${firstAdmin}; then hauberk control`,
    );
  return refuse(
    "it has a CA already, and keys are never overwritten",
    "Name another folder, or use this one: hauberk control",
  );
}

interface Wanted {
  readonly trustDomain: string;
  readonly root: Passphrase;
  readonly issuing: Passphrase;
}

async function make(input: Input, home: Home, { trustDomain, ...made }: Wanted): Promise<number> {
  const ca = await makeCa({
    caFolder: home.ca,
    trustDomain,
    rootPassphrase: made.root.text,
    passphrase: made.issuing.text,
    clock: systemClock,
    random: systemRandom,
  });
  if (isRefusal(ca)) throw HauberkError.from(ca);
  const kept = {
    root: keep(input, { ...made.root, name: "root.passphrase", fingerprint: ca.rootFingerprint }),
    issuing: keep(input, { ...made.issuing, name: "issuing.passphrase", fingerprint: ca.rootFingerprint }),
  };
  layOut(home, trustDomain);
  const adminFile = await withAuthority({ input, home, passphrase: made.issuing.text }, (authority) =>
    issueAdmin(authority, home, firstAdmin),
  );
  show(
    input.terminal,
    {
      home: home.folder,
      trustDomain,
      root: ca.rootFingerprint,
      rootEndsAtMs: ca.rootNotAfterMs,
      intermediateEndsAtMs: ca.intermediateNotAfterMs,
      rootPassphraseFile: kept.root,
      passphraseFile: kept.issuing,
      admin: adminFile,
    },
    () =>
      [
        `A mesh home in ${home.folder}, for the trust domain ${trustDomain}`,
        `  ca/        root ${ca.rootFingerprint.slice(0, 16)}… until ${day(ca.rootNotAfterMs)}, issuing CA until ${day(ca.intermediateNotAfterMs)}; keys encrypted`,
        `  policies/  empty: no call is allowed yet`,
        `  ${adminFile}  your administrator's certificate`,
        `The passphrases are not beside the keys they open:`,
        `  root     ${kept.root}  (keep it offline; hauberk control never needs it)`,
        `  issuing  ${kept.issuing}`,
        `Next: ${input.words[0] === undefined ? "" : `cd ${input.words[0]} && `}hauberk control`,
      ].join("\n"),
  );
  return exits.done;
}

/** A folder that can be written to, before anything is made that would be half there without it. */
function openFolder(folder: string, what: string, mode?: number): void {
  makeFolder(folder, { what, ...(mode === undefined ? {} : { mode }) });
  try {
    accessSync(folder, constants.W_OK);
  } catch (thrown) {
    throw new HauberkError(
      "USAGE",
      `Cannot ${what} ${folder}: this user may not write there`,
      "Name a folder of your own, or run this as the user whom it belongs to",
      thrown,
    );
  }
}

function day(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10);
}

async function chooseTrustDomain(input: Input, home: Home): Promise<string> {
  const written = existsSync(home.configFile)
    ? /^trustDomain:\s*["']?([^\s"'#]+)/m.exec(readFileSync(home.configFile, "utf8"))?.[1]
    : undefined;
  const given =
    input.flag("trust-domain") ??
    written ??
    (process.stdin.isTTY && process.stderr.isTTY && !input.terminal.json ? await askFor() : undefined);
  const name = given === undefined || given === "" ? madeUp() : given;
  if (!isTrustDomain(name))
    throw usageError(`"${name}" is no trust domain of a-z, 0-9, ".", "_", "-"`, "Choose a name such as mesh.example");
  if (written !== undefined && written !== name)
    throw usageError(`hauberk.yaml says trustDomain: ${written}, and the command line ${name}`, "Make them the same");
  return name;
}

async function askFor(): Promise<string> {
  const questions = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return (
      await questions.question("Trust domain (a name for this mesh, such as mesh.example; empty for a made-up one): ")
    ).trim();
  } finally {
    questions.close();
  }
}

/** Two meshes must be able to federate, so a name that nobody chose is nobody else's either. */
function madeUp(): string {
  const letters = "abcdefghijkmnpqrstuvwxyz23456789";
  return `mesh-${[...systemRandom.bytes(6)].map((byte) => letters[byte % letters.length]).join("")}`;
}

interface Passphrase {
  readonly text: string;
  /** Where it lies already; undefined for a made one. */
  readonly file: string | undefined;
}

function passphrase(input: Input, flag: string): Passphrase {
  const file = input.flag(flag);
  if (file === undefined) return { text: systemRandom.bytes(24).toString("base64url"), file: undefined };
  const path = resolve(input.cwd, file);
  const text = readSecretFile(path, "the passphrase", () => "");
  if (text.length < 12)
    throw new HauberkError(
      "PASSPHRASE_MISSING",
      `Cannot use the passphrase in ${path}: it has ${text.length} characters, and 12 are the least`,
      "Write a longer one",
    );
  return { text, file: path };
}

function keep(input: Input, made: Passphrase & { name: string; fingerprint: string }): string {
  if (made.file !== undefined) return made.file;
  const file = passphraseFile(stateHome(input.environment), made.fingerprint, made.name);
  makeFolder(dirname(file), { mode: 0o700 });
  writeFileSync(file, `${made.text}\n`, { mode: 0o600, flag: "wx", flush: true });
  return file;
}

function layOut(home: Home, trustDomain: string): void {
  for (const folder of [home.policies, home.certs]) makeFolder(folder);
  const write = (path: string, text: string): void => {
    if (!existsSync(path)) writeFileSync(path, text);
  };
  write(
    home.configFile,
    `# One file, every key but trustDomain optional; unknown keys are refused.\ntrustDomain: ${trustDomain}\n# addresses: { mesh: "0.0.0.0:7443", enrollment: "0.0.0.0:7444", advertise: [control.example] }\n# lifetimes: { leaf: 24h, token: 10m }\n`,
  );
  ignoreSecrets(home.folder);
}

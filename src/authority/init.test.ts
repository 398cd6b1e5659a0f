import { execFileSync } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { granted, makeTestCa, passphrases } from "../../test/support/authority.ts";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { SeededRandom } from "../../test/support/seeded-random.ts";
import { isRefusal } from "../base/errors.ts";
import { fingerprintOf, readCertificate } from "../x509/certificate.ts";
import { openKey } from "../x509/encrypted-key.ts";
import { fromPem } from "../x509/pem.ts";
import { openCa, writeNewFiles } from "./ca-files.ts";
import { makeCa, profileText } from "./init.ts";
import { defaultProfiles, profileNames, readProfiles, type ProfileName } from "./profiles.ts";

const repository = fileURLToPath(new URL("../../", import.meta.url));
let made: Awaited<ReturnType<typeof makeTestCa>>;
let scratch: string;

beforeAll(async () => {
  made = await makeTestCa();
  scratch = mkdtempSync(join(tmpdir(), "hauberk-init-"));
});
afterAll(() => {
  made.remove();
  rmSync(scratch, { recursive: true });
});

const folder = (name: string): string => join(scratch, name);
const init = (caFolder: string, more: object = {}) =>
  makeCa({
    caFolder,
    trustDomain: "mesh.test",
    rootPassphrase: "r",
    passphrase: "p",
    clock: new ManualClock(),
    random: new SeededRandom(1),
    ...more,
  });
const certificateIn = (file: string) => {
  const [block] = granted(fromPem(readFileSync(join(made.folder, file), "utf8")));
  return granted(readCertificate(block?.der ?? Buffer.alloc(0)));
};

test("the repository's profiles are those that init writes", () => {
  for (const name of profileNames) {
    const text = readFileSync(join(repository, "ca/profiles", `${name}.json`), "utf8");
    expect(JSON.parse(text)).toEqual(defaultProfiles[name]);
  }
});

test("root and intermediate are what their profiles say", () => {
  const root = certificateIn("root.crt");
  const intermediate = certificateIn("intermediate.crt");
  const day = 86_400_000;
  const atMs = new ManualClock().wallMs();
  expect(root).toMatchObject({
    ca: true,
    notAfterMs: atMs + 3_650 * day,
    uris: ["spiffe://mesh.test"],
    keyUsageCritical: true,
  });
  expect([...(root.keyUsage ?? [])].sort()).toEqual(["cRLSign", "keyCertSign"]);
  expect(intermediate).toMatchObject({
    ca: true,
    pathLength: 0,
    notAfterMs: atMs + 365 * day,
    notBeforeMs: atMs - 60_000,
  });
  expect(intermediate.nameConstraints).toMatchObject({ permittedUris: ["mesh.test"], permittedDns: ["mesh"] });
  expect(new X509Certificate(root.der).subject).toContain("CN=Hauberk root");
});

test("lifetimes and names of a profile are really used, and one that says what is not signed is refused", async () => {
  const ca = folder("changed");
  const change = (name: ProfileName, fields: object) => {
    mkdirSync(join(ca, "profiles"), { recursive: true });
    writeFileSync(join(ca, "profiles", `${name}.json`), JSON.stringify({ ...defaultProfiles[name], ...fields }));
  };
  const refused: [ProfileName, object, string][] = [
    ["intermediate", { pathLength: 3 }, 'intermediate.json: its "pathLength" is not what this release signs: 0'],
    ["intermediate", { permittedDns: ["mesh", "example.com"] }, '"permittedDns"'],
    ["intermediate", { permittedUris: ["elsewhere.test"] }, '"permittedUris"'],
    ["intermediate", { lifetime: "9999d" }, "outlives the root"],
    ["root", { keyUsage: ["keyCertSign"] }, '"keyUsage"'],
  ];
  for (const [name, fields, because] of refused) {
    change(name, fields);
    const answer = await init(ca);
    expect(answer).toMatchObject({ code: "CONFIG_INVALID" });
    expect(isRefusal(answer) ? answer.message : "").toContain(because);
    expect(readdirSync(ca)).toEqual(["profiles"]);
    change(name, {});
  }
  change("intermediate", { lifetime: "30d", commonName: "Thirty" });
  const good = granted(await init(ca));
  expect(good.intermediateNotAfterMs).toBe(new ManualClock().wallMs() + 30 * 86_400_000);
  expect(good.files).not.toContain(join("profiles", "root.json"));
  expect(good.files).toContain(join("profiles", "admin.json"));
});

test("a profile with a field too many, too few or of a wrong kind is refused by name", () => {
  const texts = Object.fromEntries(profileNames.map((name) => [name, profileText(name)])) as Record<
    ProfileName,
    string
  >;
  expect(isRefusal(readProfiles(texts))).toBe(false);
  const cases: [ProfileName, object, string][] = [
    ["workload", { validFor: "1d" }, '"validFor" is no field of it'],
    ["workload", { profile: "admin" }, 'its field "profile" is not "workload"'],
    ["workload", { key: "RSA" }, '"key" is not "P-256"'],
    ["workload", { lifetimeMax: "1m" }, '"lifetimeMin" is above "lifetimeMax"'],
    ["workload", { lifetimeMax: 7 }, '"lifetimeMax" is no duration'],
    ["workload", { lifetimeMin: "5 minutes" }, '"lifetimeMin" is no duration'],
    ["workload", { backdateMax: undefined }, '"backdateMax" is no duration'],
    ["control", { dnsNames: "mesh" }, '"dnsNames" is no list'],
    ["admin", { keyUsage: [1] }, '"keyUsage" is no list'],
    ["admin", { extendedKeyUsage: null }, '"extendedKeyUsage" is no list'],
    ["root", { commonName: "" }, '"commonName" is not'],
    ["root", { lifetime: "-1d" }, '"lifetime" is no duration'],
    ["root", { keyUsage: "x" }, '"keyUsage" is no list'],
    ["intermediate", { pathLength: "0" }, '"pathLength" is no whole number'],
    ["intermediate", { permittedDns: "mesh" }, '"permittedDns" is no list'],
  ];
  for (const [name, fields, because] of cases) {
    const text = JSON.stringify({ ...defaultProfiles[name], ...fields });
    const answer = readProfiles({ ...texts, [name]: text });
    expect(isRefusal(answer) ? answer.message : "").toContain(because);
  }
  for (const text of ["", "[]", "null", "{"]) {
    expect(readProfiles({ ...texts, root: text })).toMatchObject({ code: "CONFIG_INVALID" });
  }
});

test("every file is 0600, whole, and nothing else lies beside", () => {
  const names = readdirSync(made.folder).sort();
  expect(names).toEqual(["intermediate.crt", "intermediate.key", "profiles", "root.crt", "root.key", "token.key"]);
  for (const name of names.filter((name) => name !== "profiles")) {
    expect(statSync(join(made.folder, name)).mode & 0o777).toBe(0o600);
  }
});

test("what is there is never overwritten: HOME_EXISTS, and nothing is changed", async () => {
  const before = readFileSync(join(made.folder, "root.key"), "utf8");
  expect(await init(made.folder)).toMatchObject({ code: "HOME_EXISTS" });
  expect(readFileSync(join(made.folder, "root.key"), "utf8")).toBe(before);
  const half = folder("half");
  mkdirSync(half);
  writeFileSync(join(half, "token.key"), "precious");
  expect(await init(half)).toMatchObject({ code: "HOME_EXISTS" });
  expect(readdirSync(half)).toEqual(["token.key"]);
  const twice = [
    { path: "a", text: "1" },
    { path: "a", text: "2" },
  ];
  expect(writeNewFiles(folder("twice"), twice, new SeededRandom(1))).toMatchObject({ code: "HOME_EXISTS" });
  expect(readdirSync(folder("twice"))).toEqual(["a"]);
  expect(readFileSync(join(folder("twice"), "a"), "utf8")).toBe("1");
});

test("an empty passphrase and a trust domain that is none make no CA", async () => {
  const ca = folder("none");
  expect(await init(ca, { passphrase: "" })).toMatchObject({ code: "PASSPHRASE_MISSING" });
  expect(await init(ca, { rootPassphrase: "" })).toMatchObject({ code: "PASSPHRASE_MISSING" });
  expect(await init(ca, { trustDomain: "Mesh Test" })).toMatchObject({ code: "CONFIG_INVALID" });
});

test("the root's key opens with the root's passphrase only, and the issuing passphrase opens the two others", () => {
  const sealed = (file: string) => readFileSync(join(made.folder, file), "utf8");
  expect(isRefusal(openKey(sealed("root.key"), passphrases.root))).toBe(false);
  expect(openKey(sealed("root.key"), passphrases.issuing)).toMatchObject({ code: "PASSPHRASE_WRONG" });
  expect(isRefusal(openKey(sealed("intermediate.key"), passphrases.issuing))).toBe(false);
  expect(isRefusal(openKey(sealed("token.key"), passphrases.issuing))).toBe(false);
});

test("the CA opens without the root's key, and says what is wrong when something is", () => {
  const open =
    (passphrase = passphrases.issuing, trustDomain = "mesh.test") =>
    () =>
      openCa(made.folder, passphrase, trustDomain);
  const root = readFileSync(join(made.folder, "root.key"));
  rmSync(join(made.folder, "root.key"));
  expect(fingerprintOf(open()().roots[0]?.der ?? Buffer.alloc(0))).toBe(fingerprintOf(certificateIn("root.crt").der));
  writeFileSync(join(made.folder, "root.key"), root, { mode: 0o600 });
  expect(open("wrong")).toThrow(expect.objectContaining({ code: "PASSPHRASE_WRONG" }));
  expect(open(passphrases.issuing, "other.test")).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
  expect(() => openCa(folder("nowhere"), "x", "mesh.test")).toThrow(expect.objectContaining({ code: "HOME_MISSING" }));
  const swap = (file: string, other: string) => {
    const before = readFileSync(join(made.folder, file));
    writeFileSync(join(made.folder, file), readFileSync(join(made.folder, other)));
    expect(open()).toThrow(expect.objectContaining({ code: "STATE_DAMAGED" }));
    writeFileSync(join(made.folder, file), before);
  };
  swap("intermediate.key", "token.key");
  swap("intermediate.crt", "root.crt");
  swap("intermediate.crt", "token.key");
  expect(open()).not.toThrow();
});

test("an intermediate of another root is refused, although its key fits and its trust domain has the same name", async () => {
  const other = await makeTestCa();
  const keep = ["intermediate.crt", "intermediate.key"].map(
    (file) => [file, readFileSync(join(made.folder, file))] as const,
  );
  for (const [file] of keep) writeFileSync(join(made.folder, file), readFileSync(join(other.folder, file)));
  expect(() => openCa(made.folder, passphrases.issuing, "mesh.test")).toThrow("intermediate.crt is not usable");
  for (const [file, bytes] of keep) writeFileSync(join(made.folder, file), bytes);
  other.remove();
});

test("openssl accepts the chain by its strict rules and opens the sealed keys", () => {
  const run = (...words: string[]) =>
    execFileSync("openssl", words, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  const at = String(new ManualClock().wallMs() / 1_000);
  const file = (name: string) => join(made.folder, name);
  expect(run("verify", "-x509_strict", "-attime", at, "-CAfile", file("root.crt"), file("intermediate.crt"))).toContain(
    ": OK",
  );
  const opened = run(
    "pkey",
    "-in",
    file("intermediate.key"),
    "-passin",
    `pass:${passphrases.issuing}`,
    "-noout",
    "-text",
  );
  expect(opened).toContain("P-256");
});

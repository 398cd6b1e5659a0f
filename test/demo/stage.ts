import { generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { freePort } from "../scenario/routees.ts";
import { ask, eventually, Mesh, metricsOf, type Started } from "../support/mesh.ts";
import type { MeshAnswer, MeshCall } from "./apps/mesh-call.ts";

/** What the steps share: the mesh, its sidecars, and how web is asked to call. */
export interface StageOptions {
  readonly folder: string;
  readonly entry: string;
  readonly sabotage: string | undefined;
}

export interface Player {
  readonly name: string;
  readonly service: string;
  readonly instance: string;
  readonly appPort: number;
  sidecar: Started;
}

export interface LoadResult {
  readonly counts: Readonly<Record<string, number>>;
  readonly instances: Readonly<Record<string, number>>;
  readonly codes: Readonly<Record<string, number>>;
  readonly sent: number;
  readonly done: number;
  readonly startedMs: number;
  readonly endedMs: number;
}

const repository = fileURLToPath(new URL("../../", import.meta.url));
const apps = join(repository, "test", "demo", "apps");

export class Stage {
  readonly folder: string;
  readonly sabotage: string | undefined;
  readonly players = new Map<string, Player>();
  readonly report: { processes: Record<string, number>; [claim: string]: unknown } = { processes: {} };
  readonly #entry: string;
  readonly #issuer = generateKeyPairSync("ec", { namedCurve: "P-256" });
  #creation: Promise<Mesh> | undefined;
  #mesh: Mesh | undefined;
  #ended = false;
  #control: Started | undefined;

  constructor(options: StageOptions) {
    this.folder = options.folder;
    this.#entry = options.entry;
    this.sabotage = options.sabotage;
  }

  get mesh(): Mesh {
    if (this.#mesh === undefined) throw new Error("there is no mesh yet");
    if (this.#ended) throw new Error("the mesh has ended");
    return this.#mesh;
  }

  /** A CA of its own whose leaves live for seconds, so that a rotation can be watched. */
  async bootstrap(how: { withoutKey: boolean }): Promise<void> {
    const slow = this.sabotage === "rotation";
    const ports = { mesh: await freePort(), enrollment: await freePort() };
    this.#creation = Mesh.create({
      folder: this.folder,
      entry: this.#entry,
      ports,
      config: `lifetimes: { leaf: ${slow ? "1h" : "12s"}, allowSeconds: true }`,
    });
    this.#mesh = await this.#creation;
    if (how.withoutKey) rmSync(join(this.mesh.home, "ca", "intermediate.key"));
    await this.startControl();
  }

  async startControl(): Promise<void> {
    this.#control = await this.mesh.control();
    this.report.processes["control"] = this.#control.pid;
  }

  async stopControl(): Promise<void> {
    await this.#control?.kill("SIGTERM");
  }

  /** The repository's own policies, with the token issuer's key made for this run; `change` rewrites their text. */
  preparePolicies(change: (text: string) => string = (text) => text): string {
    const out = join(this.folder, "policies");
    rmSync(out, { recursive: true, force: true });
    mkdirSync(out);
    cpSync(join(repository, "policies"), out, { recursive: true });
    for (const name of readdirSync(out)) {
      if (!name.endsWith(".yaml")) continue;
      const file = join(out, name);
      writeFileSync(file, change(readFileSync(file, "utf8")));
    }
    const jwk = { ...this.#issuer.publicKey.export({ format: "jwk" }), kid: "demo", alg: "ES256", use: "sig" };
    writeFileSync(join(out, "corp.jwks.json"), JSON.stringify({ keys: [jwk] }));
    return out;
  }

  /** A person's token from the corporate issuer. */
  token(claims: Readonly<Record<string, unknown>>): string {
    const now = Math.floor(Date.now() / 1000);
    return signToken(
      { iss: "https://corp.example", aud: "orders", sub: "ann", iat: now, exp: now + 600, ...claims },
      this.#issuer.privateKey,
    );
  }

  /** `hauberk run` with one of the demo's programs behind it. */
  async play(
    name: string,
    about: { service: string; program: string; environment?: Record<string, string> },
    tokenFile?: string,
  ): Promise<Player> {
    const before = this.players.get(name);
    const appPort = before?.appPort ?? (await freePort());
    const instance = /\d+$/.exec(name)?.[0] ?? "1";
    const sidecar = await this.mesh.start(
      [
        "run",
        "--service",
        about.service,
        "--instance",
        instance,
        "--app",
        `http:${appPort}`,
        "--inbound-host",
        "127.0.0.1",
        "--log-level",
        "info",
        ...(tokenFile === undefined ? [] : ["--token-file", tokenFile]),
      ],
      {
        environment: { PORT: String(appPort), INSTANCE: name, ...about.environment },
        program: [process.execPath, join(apps, about.program)],
      },
    );
    const player: Player = { name, service: about.service, instance, appPort, sidecar };
    this.players.set(name, player);
    this.report.processes[name] = sidecar.pid;
    let ended = false;
    sidecar.child.once("close", () => (ended = true));
    await eventually(`${name} answers on its port`, 10_000, async () => {
      // It ends with its program, and with the same code.
      if (ended) throw new Error(`${name} ended with ${await sidecar.exited} before it served: ${lastWords(sidecar)}`);
      const answer = await ask({ port: appPort, path: "/healthz" }).catch(() => undefined);
      return answer?.status === 200 ? true : undefined;
    });
    return player;
  }

  player(name: string): Player {
    const found = this.players.get(name);
    if (found === undefined) throw new Error(`${name} does not run`);
    return found;
  }

  /** Asks web to call somebody through its sidecar. */
  async call(wanted: MeshCall, from = "web"): Promise<MeshAnswer> {
    const answer = await ask({
      port: this.player(from).appPort,
      method: "POST",
      path: "/call",
      body: JSON.stringify(wanted),
    });
    return JSON.parse(answer.body) as MeshAnswer;
  }

  async beginLoad(wanted: MeshCall & { perSecond: number }): Promise<void> {
    await ask({ port: this.player("web").appPort, method: "POST", path: "/load", body: JSON.stringify(wanted) });
  }

  async load(): Promise<LoadResult> {
    return JSON.parse((await ask({ port: this.player("web").appPort, path: "/load" })).body) as LoadResult;
  }

  async endLoad(): Promise<LoadResult> {
    return JSON.parse(
      (await ask({ port: this.player("web").appPort, method: "DELETE", path: "/load" })).body,
    ) as LoadResult;
  }

  metrics(name: string): Promise<Map<string, number>> {
    return metricsOf(this.player(name).sidecar);
  }

  howToPlay(): string {
    return [
      "",
      "The mesh goes on running; Ctrl-C ends it. In another terminal:",
      `  cd ${this.mesh.home}`,
      `  export XDG_STATE_HOME=${join(this.folder, "state")}`,
      `  node ${this.#entry} services ${this.mesh.controlFlag.join(" ")}`,
      `  node ${this.#entry} certs list ${this.mesh.controlFlag.join(" ")}`,
      `  node ${this.#entry} policy explain --policies ${join(this.folder, "policies")} --from web --to orders GET /orders/1`,
      "",
    ].join("\n");
  }

  async end(): Promise<void> {
    this.#ended = true;
    await this.#creation?.catch(() => undefined);
    if (this.#mesh !== undefined) {
      mkdirSync(join(this.folder, "logs"), { recursive: true });
      for (const player of this.players.values())
        writeFileSync(join(this.folder, "logs", `${player.name}.log`), player.sidecar.output());
      if (this.#control !== undefined) writeFileSync(join(this.folder, "logs", "control.log"), this.#control.output());
      for (const player of this.players.values()) await player.sidecar.kill("SIGTERM");
      await this.#mesh.end();
    }
  }
}

function signToken(claims: object, key: KeyObject): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part({ alg: "ES256", kid: "demo", typ: "JWT" })}.${part(claims)}`;
  return `${text}.${sign("sha256", Buffer.from(text), { key, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
}

/** What a program said at last: the lines that are none of its sidecar's log. */
function lastWords(sidecar: Started): string {
  const lines = sidecar.output().split("\n");
  const said = lines.filter((line) => line.trim() !== "" && !line.startsWith("{"));
  return said.slice(-20).join("\n") || "it said nothing";
}

import { fastifySwagger } from "@fastify/swagger";
import { jsonSchemaTransform } from "fastify-type-provider-zod";
import type { Authority, Urls } from "../authority/authority.ts";
import { type Clock, repeat } from "../base/clock.ts";
import { messageOf, refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { Random } from "../base/random.ts";
import type { HealthAnswer } from "../contract/admin.ts";
import type { registryOptions } from "../registry/options.ts";
import { Registry } from "../registry/registry.ts";
import type { storageOptions } from "../storage/options.ts";
import { pruneLimits } from "../storage/retention.ts";
import type { Store } from "../storage/store.ts";
import { Faults } from "../telemetry/faults.ts";
import type { Logger } from "../telemetry/logger.ts";
import { addAdminRoutes } from "./admin-api.ts";
import { addEnrollmentRoutes } from "./enrollment-api.ts";
import { type App, closeListener, listen, makeListener, sendAnswer } from "./listener.ts";
import { addWorkloadRoutes, type MeshContext, requirePeers, type Workload } from "./mesh-api.ts";
import type { controlOptions } from "./options.ts";
import { OwnIdentity } from "./own-identity.ts";
import { Peers } from "./peers.ts";
import { Rates } from "./rates.ts";
import { SharedState } from "./shared-state.ts";
import { contextOf, swap } from "./tls.ts";
import { Views } from "./views.ts";
import { WatchHub } from "./watch-hub.ts";

/** The control plane: puts authority, registry and store behind two listeners. */
export interface ControlPlaneContext {
  readonly store: Store;
  readonly authority: Authority;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly options: {
    readonly control: OptionValues<typeof controlOptions>;
    readonly registry: OptionValues<typeof registryOptions>;
    readonly storage: OptionValues<typeof storageOptions>;
  };
  /** Port 0 takes a free one. */
  readonly listen: { readonly mesh: Address; readonly enrollment: Address };
  /** What tokens and answers name; by default the addresses that were bound, 127.0.0.1 for all interfaces. */
  readonly urls?: Partial<Urls>;
  /** Of Hauberk. */
  readonly release: string;
}

export interface Address {
  readonly host: string;
  readonly port: number;
}

export class ControlPlane {
  /** Where the listeners answer. */
  readonly addresses: { readonly mesh: Address; readonly enrollment: Address };
  readonly #parts: Parts;

  /** @throws HauberkError PORT_TAKEN, STORE_FAILED, ISSUER_EXPIRED, POLICY_INVALID */
  static async start(context: ControlPlaneContext): Promise<ControlPlane> {
    const undo: (() => unknown)[] = [];
    try {
      const own = await OwnIdentity.start(context);
      undo.push(() => own.stop());
      const registry = await Registry.open({ ...context, options: context.options.registry });
      undo.push(() => registry.close());
      const parts = await assemble(context, { own, registry });
      undo.push(() => parts.close(undefined));
      const mesh = await listen(parts.mesh, context.listen.mesh);
      const enrollment = await listen(parts.enrollment, context.listen.enrollment);
      context.authority.announce({
        control: context.urls?.control ?? [urlOf(mesh)],
        enrollment: context.urls?.enrollment ?? [urlOf(enrollment)],
      });
      return new ControlPlane({ mesh, enrollment }, parts);
    } catch (thrown) {
      for (const step of undo.toReversed()) await step();
      throw thrown;
    }
  }

  private constructor(addresses: ControlPlane["addresses"], parts: Parts) {
    this.addresses = addresses;
    this.#parts = parts;
  }

  /** Ends everything; graceful (the default) tells every sidecar to go elsewhere and lets answers under way end. The store stays open. */
  async stop(how: { readonly graceful?: boolean } = {}): Promise<void> {
    await this.#parts.close(how.graceful === false ? undefined : "the control plane stops");
  }
}

interface Parts {
  readonly mesh: App;
  readonly enrollment: App;
  close(because: string | undefined): Promise<void>;
}

async function assemble(context: ControlPlaneContext, made: { own: OwnIdentity; registry: Registry }): Promise<Parts> {
  const { authority, clock, log, random, release, store } = context;
  const { control: options } = context.options;
  const { own, registry } = made;
  const faults = new Faults({ log, clock });
  const views = new Views(authority.trustDomain, registry);
  const mayGoOn = (peer: Workload): Promise<true | Refusal> => standsStill(store, peer);
  const { version } = await store.meta();
  const hub = new WatchHub(
    { registry, views, clock, random, log, options, mayGoOn: (stream) => mayGoOn(stream.peer), onFault: faults.task },
    version,
  );
  const state = new SharedState({ store, authority, own, views, hub, log });
  await state.load();

  const listener = { clock, log, options };
  const tls = contextOf(own.published.read());
  const mesh = makeListener(
    {
      name: "mesh",
      tls: { ...tls, requestCert: true, rejectUnauthorized: true },
      connectionsMax: options.meshConnectionsMax,
    },
    listener,
  );
  const enrollment = makeListener(
    { name: "enrollment", tls, connectionsMax: options.enrollmentConnectionsMax },
    listener,
  );
  const shutOut = (serial: string, refusal: Refusal): void => {
    const dismissed = store.lineage(serial).then((found) => found?.instance && hub.dismiss(found.instance.id, refusal));
    dismissed.catch((thrown: unknown) =>
      log.error("A cloned instance cannot be shut out now", { because: messageOf(thrown) }),
    );
  };
  const peers = new Peers({ authority, identity: own.published, clock, shutOut });
  const rates = new Rates(clock, { perSecond: options.identityPerSecond, burstMax: options.identityBurstMax });
  const health = (): HealthAnswer => ({ status: "ok", release, wallMs: clock.wallMs() });
  const api = { authority, peers, rates, mayGoOn, hub, clock, log, options };
  const policiesChanged = (): Promise<void> => state.readPolicies();
  await addMeshRoutes(mesh, { api, health, release, admin: { ...api, store, registry, policiesChanged } });
  addEnrollmentRoutes(enrollment, { authority, own, health });

  let goesOn = true;
  const stops = [
    () => (goesOn = false),
    own.published.subscribe((identity) => {
      swap(mesh.server, identity);
      swap(enrollment.server, identity);
    }),
    store.onChange((moved) => {
      try {
        state.moved(moved, clock);
      } catch (thrown) {
        faults.task(thrown); // Called from a microtask of the store.
      }
    }),
    () => faults.stop(),
    () => state.stop(),
    repeat(clock, options.pruneEveryMs, () => void prune(context, () => goesOn)),
  ];
  return {
    mesh,
    enrollment,
    close: async (because) => {
      for (const stop of stops) stop();
      own.stop();
      hub.stop(because);
      const withinMs = because === undefined ? 0 : options.stopMs;
      await Promise.all([mesh, enrollment].map((app) => closeListener(app, clock, withinMs)));
      await registry.close();
    },
  };
}

interface Routes {
  readonly api: MeshContext;
  readonly admin: Parameters<typeof addAdminRoutes>[1];
  readonly health: () => HealthAnswer;
  readonly release: string;
}

async function addMeshRoutes(mesh: App, { api, admin, health, release }: Routes): Promise<void> {
  const info = { title: "Hauberk's mesh API", version: release };
  await mesh.register(fastifySwagger, { openapi: { openapi: "3.1.0", info }, transform: jsonSchemaTransform });
  requirePeers(mesh, api);
  await mesh.register(async (app) => addWorkloadRoutes(app as App, api));
  await mesh.register(async (app) => addAdminRoutes(app as App, admin));
  mesh.get("/v1/health", { schema: { summary: "Whether it answers, and its clock" } }, (_request, reply) =>
    sendAnswer(reply, health()),
  );
  mesh.get("/v1/openapi.json", { schema: { summary: "This document" } }, (_request, reply) =>
    sendAnswer(reply, mesh.swagger()),
  );
}

/** Whether a workload that was identified once may still go on. */
async function standsStill(store: Store, peer: Workload): Promise<true | Refusal> {
  const lineage = await store.lineage(peer.leaf.serial);
  if (lineage?.instance === undefined) {
    return refuse(
      "LEAF_UNKNOWN",
      "Cannot go on: this certificate is not in the store",
      "Enroll again with a new token",
    );
  }
  const { instance, leaf } = lineage;
  if (instance.lockedAtMs === null && instance.endedAtMs === null && leaf.status !== "revoked") return true;
  const because = instance.lockedBecause ?? "its certificate was withdrawn";
  return refuse(
    "INSTANCE_LOCKED",
    `Cannot go on: this instance is shut out (${because})`,
    "Ask an administrator to unlock it",
  );
}

/**
 * Deletes what is old, a portion in a transaction of its own after the other until one is not full: short lives and many
 * sidecars leave more behind than one portion. Others have their turn between two.
 */
async function prune(context: ControlPlaneContext, goesOn: () => boolean): Promise<void> {
  const { authority, clock, log } = context;
  const limits = pruneLimits(context.options.storage, clock.wallMs());
  try {
    for (let full = true; full && goesOn();) {
      const pruned = await authority.prune(limits);
      full = Object.values(pruned).some((count) => count >= limits.rowsMax);
      await new Promise<void>((resolve) => void setImmediate(resolve));
    }
  } catch (thrown) {
    log.warn("Old rows cannot be deleted now", { because: messageOf(thrown) });
  }
}

function urlOf({ host, port }: Address): string {
  const reachable = host === "0.0.0.0" || host === "::" ? "127.0.0.1" : host;
  return `https://${reachable.includes(":") ? `[${reachable}]` : reachable}:${port}`;
}

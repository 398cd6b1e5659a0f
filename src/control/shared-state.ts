import type { Authority } from "../authority/authority.ts";
import type { Clock } from "../base/clock.ts";
import { failures, HauberkError, isRefusal, messageOf } from "../base/errors.ts";
import type { Version } from "../contract/watch.ts";
import type { Store } from "../storage/store.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { OwnIdentity } from "./own-identity.ts";
import { indexOf } from "./policy-index.ts";
import { storedResources } from "./policy-set.ts";
import type { Views } from "./views.ts";
import type { WatchHub } from "./watch-hub.ts";

/** Changes that another process made to the policies are noticed this long after the store's version moved. */
const foreignChangeMs = 1_000;

export interface SharedStateContext {
  readonly store: Store;
  readonly authority: Authority;
  readonly own: OwnIdentity;
  readonly views: Views;
  readonly hub: WatchHub;
  readonly log: Logger;
}

/** What every sidecar's view follows from, kept equal to the store. */
export class SharedState {
  readonly #context: SharedStateContext;
  #bundleSequence = -1;
  #cancelRead: (() => void) | undefined;
  #stopped = false;
  #reading: Promise<void> = Promise.resolve();

  constructor(context: SharedStateContext) {
    this.#context = context;
  }

  async load(): Promise<void> {
    this.#readBundle();
    await this.readPolicies();
  }

  /** The store committed something: the version counts at once, what else changed is looked up. */
  moved(version: Version, clock: Clock): void {
    // Whatever fails before, a policy that denies has to be read.
    this.#planRead(clock);
    this.#context.hub.setVersion(version);
    this.#readBundle();
  }

  stop(): void {
    this.#cancelRead?.();
    this.#stopped = true;
  }

  /** A store that fails is asked again: nothing else might move its version, and a policy that denies has to be in force. */
  #planRead(clock: Clock): void {
    if (this.#stopped || this.#cancelRead !== undefined) return;
    this.#cancelRead = clock.after(foreignChangeMs, () => {
      this.#cancelRead = undefined;
      this.readPolicies().catch((thrown: unknown) => {
        this.#context.log.error("The policies cannot be read now; the last ones count", { because: messageOf(thrown) });
        if (thrown instanceof HauberkError && failures[thrown.code].retryable) this.#planRead(clock);
      });
    });
  }

  /** One after the other, so that an older set never replaces a newer one. @throws HauberkError POLICY_INVALID */
  readPolicies(): Promise<void> {
    const next = this.#reading.catch(() => undefined).then(() => this.#readPolicies());
    this.#reading = next;
    return next;
  }

  /** A set that cannot be read is not taken for an empty one: the last good one counts. */
  async #readPolicies(): Promise<void> {
    const { store, views, hub, log } = this.#context;
    const row = await store.policies();
    if (row.revision === views.policies.revision) return;
    const resources = storedResources(row.json);
    if (isRefusal(resources)) throw HauberkError.from(resources);
    views.setPolicies(indexOf(row.revision, resources, views.policies));
    log.info("Policies are in force", { revision: row.revision, resources: resources.length });
    hub.touchAll();
  }

  #readBundle(): void {
    const { authority, own, views, hub } = this.#context;
    const bundle = authority.bundle();
    if (bundle.sequence === this.#bundleSequence) return;
    const first = this.#bundleSequence < 0;
    this.#bundleSequence = bundle.sequence;
    views.setBundle(bundle);
    hub.touchAll();
    // The listeners have to trust the new roots too.
    if (!first) own.renew();
  }
}

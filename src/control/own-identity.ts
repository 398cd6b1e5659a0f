import type { Clock } from "../base/clock.ts";
import { HauberkError, isRefusal, messageOf } from "../base/errors.ts";
import { Published } from "../base/published.ts";
import type { Random } from "../base/random.ts";
import { renewAtMs, retryAtMs, tickMs } from "../resilience/renewal.ts";
import type { Authority } from "../authority/authority.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";

export interface OwnIdentityContext {
  readonly authority: Authority;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
}

/** The control plane's own certificate: made and verified by its authority, renewed by itself. */
export class OwnIdentity {
  readonly published: Published<TlsIdentity>;
  readonly #context: OwnIdentityContext;
  #cancel: () => void = () => undefined;
  #stopped = false;

  /** @throws HauberkError what the authority refuses with: ISSUER_EXPIRED, STORE_FAILED */
  static async start(context: OwnIdentityContext): Promise<OwnIdentity> {
    return new OwnIdentity(context, await issue(context));
  }

  private constructor(context: OwnIdentityContext, first: TlsIdentity) {
    this.#context = context;
    this.published = new Published(first);
    this.#plan(first);
  }

  /** Renews now: the roots have changed. */
  renew(): void {
    this.#cancel();
    void this.#try(this.#context.clock.wallMs());
  }

  stop(): void {
    this.#stopped = true;
    this.#cancel();
  }

  #plan(identity: TlsIdentity): void {
    this.#wait(identity, { dueMs: renewAtMs(identity, this.#context.random.draw()), firstAtMs: undefined });
  }

  /** Looks at the wall clock often, because it may jump: a laptop sleeps, an operator sets it. */
  #wait(identity: TlsIdentity, next: { dueMs: number; firstAtMs: number | undefined }): void {
    const { clock } = this.#context;
    if (this.#stopped) return;
    this.#cancel(); // Of two tries that overlap, the later one's plan counts.
    const waitMs = Math.ceil(Math.min(tickMs(identity), Math.max(0, next.dueMs - clock.wallMs())));
    this.#cancel = clock.after(waitMs, () => {
      if (clock.wallMs() >= next.dueMs) void this.#try(next.firstAtMs ?? clock.wallMs());
      else this.#wait(identity, next);
    });
  }

  async #try(firstAtMs: number): Promise<void> {
    const { clock, random, log } = this.#context;
    try {
      const identity = await issue(this.#context);
      if (this.#stopped) return;
      this.published.publish(identity);
      log.info("The control plane's own certificate was renewed", { notAfterMs: identity.notAfterMs });
      this.#plan(identity);
    } catch (thrown) {
      const identity = this.published.read();
      log.error("The control plane's own certificate cannot be renewed now", { because: messageOf(thrown) });
      const dueMs = retryAtMs(identity, { firstAtMs, nowMs: clock.wallMs(), draw: random.draw() });
      this.#wait(identity, { dueMs, firstAtMs });
    }
  }
}

async function issue({ authority }: OwnIdentityContext): Promise<TlsIdentity> {
  const identity = await authority.issueControl();
  if (isRefusal(identity)) throw HauberkError.from(identity);
  return identity;
}

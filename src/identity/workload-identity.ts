import type { Clock } from "../base/clock.ts";
import { failures, HauberkError, isRefusal, messageOf, refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import { Published } from "../base/published.ts";
import type { Random } from "../base/random.ts";
import { serviceId, type ServiceName } from "../base/spiffe-id.ts";
import type { BundleView } from "../contract/watch.ts";
import { faultFields } from "../telemetry/faults.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { verifyWorkload } from "../x509/verify.ts";
import { enroll, forgetEnrolling } from "./bootstrap.ts";
import { openWatch, type WatchEvents, type WatchStream } from "./control-client.ts";
import { holdProcess } from "./hold-process.ts";
import { readAll, type Issued } from "./issued.ts";
import { Keeper } from "./keeper.ts";
import { identityMeters, type IdentityMeters } from "./meters.ts";
import type { identityOptions } from "./options.ts";
import {
  isDue,
  isForPerson,
  isInDate,
  lookAgainMs,
  planAfterIssue,
  planRecovery,
  planRenewal,
  planRetry,
  type Now,
  type Plan,
} from "./renewal.ts";
import { recover, renew } from "./requests.ts";
import type { StateFolder } from "./state-folder.ts";
import { readIdentity, type Stored } from "./stored-identity.ts";
import { readToken } from "./token.ts";
import { tokenBeside, whyOtherMesh, type Holder, type TokenAtHand } from "./token-beside.ts";

export interface IdentityContext {
  /** Open, and so locked by this process. */
  readonly stateFolder: StateFolder;
  /** The enrollment token where there is one; asked only where no identity is on disk, or it cannot be brought back. */
  readonly tokenSource: () => Promise<string | undefined>;
  /** The same one, looked at without taking it; undefined where none was given, or it is gone. */
  readonly tokenAtHand?: (() => TokenAtHand | undefined) | undefined;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly options: OptionValues<typeof identityOptions>;
  /** Whom this process was started as; undefined takes what the token or the folder says. */
  readonly expect?: ServiceName | undefined;
  readonly metrics?: Metrics | undefined;
}

/** Between two lines about an enrollment that is waited for. */
const tellEveryMs = 10_000;

/** In the last fifth of its life a certificate is used although it could not be kept on disk: later is too late. */
const unkeptShare = 0.2;

/**
 * This workload's certificate: obtained, renewed and published, for ever.
 *
 * A new one is verified as a stranger would, then kept on disk whole, then published; readers of `current` take it for their
 * next connection. A certificate in date is never given up, whatever the control plane says; after its end `current` is
 * undefined until the recovery key has brought a new one.
 */
export class WorkloadIdentity {
  /** What to make connections with now; undefined where nothing valid is held. */
  readonly current = new Published<TlsIdentity | undefined>(undefined);
  readonly #context: IdentityContext;
  readonly #log: Logger;
  #held: Stored | undefined;
  readonly #keeper: Keeper;
  readonly #meters: IdentityMeters;
  #plan: Plan;
  #generation = 0;
  #trying: Promise<void> | undefined;
  #cancelTick: (() => void) | undefined;
  #running = false;
  /** Why nothing but a person brings back an identity of which only the recovery key is left. */
  #hopeless: Refusal | undefined;
  readonly #whenHopeless = new Set<(refusal: Refusal) => void>();
  /** Monotonic: when the control plane's word that it does not know the certificate is acted on again. */
  #disownedAgainMs = 0;

  private constructor(context: IdentityContext, keeper: Keeper) {
    this.#context = context;
    this.#log = context.log;
    this.#keeper = keeper;
    this.#plan = planRecovery(this.#now());
    this.#meters = identityMeters(context.metrics, {
      issuedAtMs: () => this.#held?.issued.issuedAtMs ?? 0,
      notAfterMs: () => this.#held?.issued.notAfterMs ?? 0,
      nextTryAtMs: () => this.#plan.nextAtMs,
    });
  }

  /**
   * The identity of the state folder, or a new one for the token. Waits for the control plane up to `enrollWaitMs` where it
   * has to enroll; where a certificate on disk has ended, tries once to bring it back and leaves the rest to `start`.
   * @throws HauberkError TOKEN_NEEDED, USAGE for another service or a token of another mesh, or the refusal that the enrollment, or
   * the return by the recovery key, ended with.
   */
  static async open(context: IdentityContext): Promise<WorkloadIdentity> {
    const identity = new WorkloadIdentity(context, await Keeper.open(context.stateFolder, context.log));
    const stored = await readIdentity(context.stateFolder);
    const release = holdProcess();
    try {
      if (stored === undefined) await identity.#begin();
      else await identity.#take(stored);
    } finally {
      release();
    }
    return identity;
  }

  /** The enrolled copy that this is; "" before there is one. */
  get instance(): string {
    return this.#held?.issued.instance ?? this.#keeper.recovery?.instance ?? "";
  }

  /** Wall clock of the next renewal or retry, for whoever shows it. */
  get nextTryAtMs(): number {
    return this.#plan.nextAtMs;
  }

  /** Renews and recovers from now on. */
  start(): void {
    if (this.#running) return;
    this.#running = true;
    this.#tick();
  }

  /** Stops trying; what is under way ends first. `current` stays as it is. */
  async stop(): Promise<void> {
    this.#running = false;
    this.#cancelTick?.();
    this.#cancelTick = undefined;
    await this.#trying;
    await this.#keeper.settled();
  }

  /** Resolves with the identity as soon as one is valid. @throws HauberkError where only a person can bring one. */
  ready(): Promise<TlsIdentity> {
    const now = this.current.read();
    if (now !== undefined) return Promise.resolve(now);
    return new Promise((resolve, reject) => {
      const cancel = this.current.subscribe((identity) => {
        if (identity === undefined) return;
        this.#whenHopeless.delete(giveUp);
        cancel();
        resolve(identity);
      });
      const giveUp = (refusal: Refusal): void => {
        cancel();
        reject(HauberkError.from(refusal));
      };
      if (this.#hopeless === undefined) this.#whenHopeless.add(giveUp);
      else giveUp(this.#hopeless);
    });
  }

  /** Tries now instead of at the drawn moment; one that is under way is joined. */
  renewNow(): Promise<void> {
    this.#plan = { ...this.#plan, nextAtMs: Math.min(this.#plan.nextAtMs, this.#context.clock.wallMs()) };
    return this.#tryOnce();
  }

  /** Opens the watch with `identity` at the first control plane that takes it. @throws HauberkError */
  async openWatch(identity: TlsIdentity, events: WatchEvents): Promise<WatchStream> {
    const urls = this.#held?.issued.controlUrls ?? [];
    const access = { urls, roots: identity.roots, trustDomain: identity.id.trustDomain, identity };
    try {
      return await openWatch(access, events, this.#context);
    } catch (thrown) {
      if (thrown instanceof HauberkError && thrown.code === "LEAF_UNKNOWN") this.#disowned(identity);
      throw thrown;
    }
  }

  /** The control plane does not know the certificate: the moment of its renewal may be hours away, and would tell the same. */
  #disowned(identity: TlsIdentity): void {
    const { clock, options } = this.#context;
    const nowMs = clock.monotonicMs();
    if (!this.#running || identity !== this.current.read()) return;
    // What failed has its own rhythm; and one that is not taken right after it was issued must not be replaced without a pause.
    if (this.#plan.failures > 0 || nowMs < this.#disownedAgainMs) return;
    this.#disownedAgainMs = nowMs + options.lockedRetryMs;
    void this.renewNow();
  }

  /**
   * Takes a new bundle from the control plane: published at once, kept on disk after it. An older one changes nothing; one
   * under which our own certificate would be a stranger's is refused, for our peers would refuse us.
   */
  adopt(bundle: BundleView): true | Refusal {
    const held = this.#held;
    if (held === undefined || bundle.sequence <= held.issued.bundleSequence) return true;
    const { id, chain } = held.issued;
    const roots = readAll(bundle.roots);
    if (isRefusal(roots)) return roots;
    const atMs = inDateMs(held.issued, this.#context.clock.wallMs());
    const proof = verifyWorkload({ chain, roots, trustDomain: bundle.trustDomain, atMs, expect: id.text });
    if (isRefusal(proof)) return proof;
    const issued = { ...held.issued, roots, bundleSequence: bundle.sequence };
    this.#held = { ...held, issued };
    if (this.current.read() !== undefined) this.#publish(issued);
    this.#log.info("the trust bundle has changed", { sequence: bundle.sequence, roots: roots.length });
    this.#keeper.save(this.#held).catch((thrown: unknown) => {
      this.#log.error("the new trust bundle could not be kept on disk", { error: thrown });
    });
    return true;
  }

  async #take(stored: Stored): Promise<void> {
    const { issued } = stored;
    const { id, roots } = issued;
    this.#requireExpected(id.text, id.trustDomain);
    const { wallMs } = this.#now();
    const folder = this.#context.stateFolder.path;
    const tokenDigest = this.#keeper.recovery?.tokenDigest;
    const holder = { folder, id: id.text, trustDomain: id.trustDomain, roots, tokenDigest };
    this.#judgeToken(holder, isInDate(issued, wallMs));
    // Judged at a moment of its own life: whether that life is over is another question, and clocks may be wrong at boot.
    const proof = verifyWorkload({
      chain: issued.chain,
      roots: issued.roots,
      trustDomain: issued.id.trustDomain,
      atMs: inDateMs(issued, wallMs),
      expect: issued.id.text,
    });
    if (isRefusal(proof)) {
      await this.#context.stateFolder.setAside("identity.json", proof.message);
      return this.#begin();
    }
    this.#hold(stored);
    if (wallMs >= issued.notAfterMs) await this.#tryOnce();
  }

  /** Without a usable identity: by the recovery key where there is one (`start` goes on where this first try fails), or a token. */
  async #begin(): Promise<void> {
    const { recovery } = this.#keeper;
    if (recovery === undefined) return this.#enrollPatiently();
    this.#requireExpected(recovery.id, recovery.trustDomain);
    this.#judgeToken({ ...recovery, folder: this.#context.stateFolder.path }, false);
    await this.#tryOnce();
    if (this.#hopeless !== undefined) throw HauberkError.from(this.#hopeless);
  }

  /**
   * Says at the start that a token is not used, and why. One of another mesh ends a start whose own certificate has ended: with a
   * valid one on disk the token is ignored, whatever it is, so that a unit file that is wrong takes no service away.
   */
  #judgeToken(holder: Holder, inUse: boolean): void {
    const token = this.#context.tokenAtHand?.();
    if (token === undefined) return;
    const ignored = tokenBeside(token, holder, this.#context.clock.wallMs());
    const isForeign = isRefusal(ignored);
    if (!inUse) {
      if (isForeign) throw HauberkError.from(ignored);
      return; // It may yet be needed.
    }
    const { id, trustDomain, folder } = holder;
    const { because, expected } = isForeign ? { because: ignored.message, expected: false } : ignored;
    const { hint } = ignored;
    this.#log[expected ? "info" : "warn"](
      "the enrollment token is not used as long as the control plane knows the identity on disk",
      { id, trustDomain, folder, because, hint },
    );
  }

  #requireExpected(id: string, trustDomain: string): void {
    const { expect, stateFolder } = this.#context;
    if (expect === undefined || id === serviceId(trustDomain, expect)) return;
    throw new HauberkError(
      "USAGE",
      `Cannot run ${expect.service}.${expect.namespace} from ${stateFolder.path}: it holds the identity "${id}"`,
      "Name another folder with --state DIR, or run the service that this one belongs to",
    );
  }

  async #enrollPatiently(): Promise<void> {
    const { clock, options, random } = this.#context;
    const token = await this.#token();
    if (token === undefined) throw HauberkError.from(tokenNeeded());
    const untilMs = clock.monotonicMs() + options.enrollWaitMs;
    const tell = this.#progress(untilMs);
    for (let tries = 0; ; tries++) {
      const done = await this.#enroll(token, tell);
      if (done === true) return;
      const waitMs = Math.min(5_000, 250 * 2 ** Math.min(10, tries)) * (0.5 + 0.5 * random.draw());
      if (!failures[done.code].retryable || clock.monotonicMs() + waitMs > untilMs) throw HauberkError.from(done);
      tell(done);
      await new Promise<void>((resolve) => void clock.after(waitMs, resolve));
    }
  }

  /** Says at once, and then now and again, what is waited for: whoever mistyped an address sees it before the wait is over. */
  #progress(untilMs: number): (refusal: Refusal) => void {
    const { clock } = this.#context;
    let nextMs = 0;
    return ({ code, message, hint }) => {
      const nowMs = clock.monotonicMs();
      // One that is not worth waiting for is about to be told as the end.
      if (nowMs < nextMs || nowMs >= untilMs || !failures[code].retryable) return;
      nextMs = nowMs + tellEveryMs;
      this.#log.warn("this workload cannot be enrolled yet; it is tried again until the wait is over", {
        because: message,
        hint,
        waitsForMs: Math.round(untilMs - nowMs),
      });
    };
  }

  /** One that cannot be read helps nobody, and is told: it ends no process that has another way back. */
  async #tokenOrNone(): Promise<string | undefined> {
    try {
      return await this.#token();
    } catch (thrown) {
      this.#log.warn("the enrollment token cannot be read", { because: messageOf(thrown) });
      return undefined;
    }
  }

  async #token(): Promise<string | undefined> {
    const token = (await this.#context.tokenSource())?.trim();
    return token === "" ? undefined : token;
  }

  async #enroll(token: string, missed?: (refusal: Refusal) => void): Promise<true | Refusal> {
    const { stateFolder, expect } = this.#context;
    const context = { folder: stateFolder, expect, context: this.#context };
    const enrolled = await enroll(token, { ...context, ...(missed === undefined ? {} : { missed }) });
    if (isRefusal(enrolled)) return enrolled;
    this.#keeper.enrolled(enrolled.recovery);
    const { issued } = enrolled;
    const stored = { issued, draw: this.#context.random.draw() };
    await this.#keeper.save(stored);
    await forgetEnrolling(stateFolder);
    this.#hold(stored, planAfterIssue);
    this.#log.info("enrolled", { id: issued.id.text, instance: issued.instance, notAfter: isoOf(issued.notAfterMs) });
    return true;
  }

  #tick(): void {
    if (!this.#running) return;
    try {
      this.#look();
    } catch (thrown) {
      // Without a next look the certificate would end unnoticed.
      this.#log.error("a bug was caught as the certificate was looked at", faultFields(thrown));
    }
    this.#cancelTick?.();
    const waitMs = lookAgainMs(this.#plan, this.#held?.issued, this.#now());
    this.#cancelTick = this.#context.clock.after(waitMs, () => this.#tick());
  }

  #look(): void {
    this.#publishWhatIsInDate(this.#now().wallMs);
    if (isDue(this.#plan, this.#now())) void this.#tryOnce();
  }

  /** Follows the wall clock both ways: an ended certificate is not used, one that is in date again is. */
  #publishWhatIsInDate(wallMs: number): void {
    const held = this.#held?.issued;
    const shown = this.current.read() !== undefined;
    if (held === undefined) return;
    const inDate = isInDate(held, wallMs);
    if (inDate && !shown) this.#publish(held);
    if (inDate || !shown) return;
    const what =
      wallMs < held.notAfterMs
        ? "has not begun by this machine's clock, which was set back"
        : "has ended and could not be renewed in time";
    this.#log.error(`the certificate ${what}; no call is made or taken until it is back`, {
      notAfter: isoOf(held.notAfterMs),
      now: isoOf(wallMs),
    });
    // Every second counts from here on: what failed before has its own, slower rhythm.
    this.#plan = planRecovery(this.#now());
    this.current.publish(undefined);
  }

  #tryOnce(): Promise<void> {
    this.#trying ??= this.#try()
      .catch((thrown: unknown) =>
        this.#failed(
          refuse(
            "STATE_DAMAGED",
            `Cannot keep a certificate: ${messageOf(thrown)}`,
            "Look at the state folder and its disk",
          ),
          thrown,
        ),
      )
      .finally(() => {
        this.#trying = undefined;
        this.#tick();
      });
    return this.#trying;
  }

  async #try(): Promise<void> {
    const identity = this.current.read();
    const held = this.#held?.issued;
    let issued: Issued | Refusal;
    let how: "renewed" | "recovered" = "renewed";
    if (identity !== undefined && held !== undefined && isInDate(held, this.#context.clock.wallMs())) {
      issued = await renew(held, identity, this.#context);
      // A clock that differs, or a store that was restored, forgets leaves; it does not forget recovery keys.
      if (isRefusal(issued) && (issued.code === "LEAF_EXPIRED" || issued.code === "LEAF_UNKNOWN")) {
        this.#log.warn("the control plane does not take this certificate; trying the recovery key", {
          code: issued.code,
          because: issued.message,
        });
        how = "recovered";
        issued = await this.#recoverOr(issued);
        // Standard input may be the program's by now: only a token that can be looked at again is at hand.
        if (isRefusal(issued) && isForPerson(issued.code)) {
          const judged = await this.#enrollAnew(this.#context.tokenAtHand?.()?.text, issued);
          if (judged === true) return;
          issued = judged;
        }
      }
    } else {
      how = "recovered";
      issued = await this.#recoverOr(tokenNeeded());
      if (isRefusal(issued) && isForPerson(issued.code)) {
        const judged = await this.#enrollAnew(await this.#tokenOrNone(), issued);
        if (judged === true) return;
        issued = judged;
      }
    }
    if (isRefusal(issued)) this.#failed(issued, undefined);
    else await this.#install(issued, how);
  }

  #recoverOr(otherwise: Refusal): Promise<Issued | Refusal> {
    const held = this.#held?.issued;
    const { recovery } = this.#keeper;
    if (recovery === undefined) return Promise.resolve(otherwise);
    const { enrollmentUrls, roots } = held ?? recovery;
    return recover({ ...recovery, enrollmentUrls, roots }, this.#context);
  }

  /** A person may have put a new token beside a sidecar that cannot come back by itself. */
  async #enrollAnew(token: string | undefined, refused: Refusal): Promise<true | Refusal> {
    const { code, message } = refused;
    // Of a lock, its own hint says more: it names the instance, and who unlocks it needs no token.
    const locked = code === "INSTANCE_LOCKED" || code === "CLONE_DETECTED";
    if (token === undefined) return locked ? refused : refuse(code, message, this.#wayBack());
    const done = this.#whyNotOurs(token) ?? (await this.#enroll(token));
    if (done === true) return true;
    this.#log.warn("the enrollment token at hand does not help either", { code: done.code, because: done.message });
    return refuse(code, `${message}; nor does the token at hand help (${done.message})`, this.#wayBack());
  }

  /** A token that would make somebody else of this process, or move it to another mesh. */
  #whyNotOurs(token: string): Refusal | undefined {
    const held = this.#held?.issued;
    const recovery = this.#keeper.recovery;
    const claims = readToken(token);
    if (isRefusal(claims)) return claims;
    const own =
      held === undefined ? recovery : { id: held.id.text, trustDomain: held.id.trustDomain, roots: held.roots };
    if (own === undefined) return undefined;
    const because = whyOtherMesh(claims, own) ?? (claims.sub === own.id ? undefined : `it grants "${claims.sub}"`);
    return because === undefined
      ? undefined
      : refuse("USAGE", `Cannot enroll "${own.id}": ${because}`, this.#wayBack());
  }

  #wayBack(): string {
    const { path } = this.#context.stateFolder;
    return `Make a new token on the control plane's machine (hauberk token create --service NAME) and start this again with --token-file PATH; or give it another --instance, or remove ${path}`;
  }

  async #install(issued: Issued, how: "renewed" | "recovered"): Promise<void> {
    let stored = { issued: this.#withNewestBundle(issued), draw: this.#context.random.draw() };
    try {
      await this.#keeper.save(stored);
      // A bundle that was adopted meanwhile put the certificate before this one back on disk, where it would be a clone's.
      while (this.#withNewestBundle(stored.issued) !== stored.issued) {
        stored = { ...stored, issued: this.#withNewestBundle(stored.issued) };
        await this.#keeper.save(stored);
      }
    } catch (thrown) {
      const held = this.#held?.issued;
      const leftMs = held === undefined ? 0 : held.notAfterMs - this.#context.clock.wallMs();
      if (held !== undefined && leftMs > (held.notAfterMs - held.issuedAtMs) * unkeptShare) throw thrown;
      this.#log.error("the new certificate could not be kept on disk and is used from memory", { error: thrown });
      stored = { ...stored, issued: this.#withNewestBundle(stored.issued) };
    }
    this.#hold(stored, planAfterIssue);
    this.#meters.tried(how);
    this.#log.info(`the certificate was ${how}`, {
      id: issued.id.text,
      instance: issued.instance,
      serial: issued.chain[0]?.serial,
      notAfter: isoOf(issued.notAfterMs),
      next: isoOf(this.#plan.nextAtMs),
    });
  }

  /** A bundle that came by the watch while the answer was under way is newer than the answer's. */
  #withNewestBundle(issued: Issued): Issued {
    const held = this.#held?.issued;
    if (held === undefined || held.bundleSequence <= issued.bundleSequence) return issued;
    return { ...issued, roots: held.roots, bundleSequence: held.bundleSequence };
  }

  #failed(refusal: Refusal, thrown: unknown): void {
    const held = this.#held?.issued;
    const failed = { code: refusal.code, life: held, now: this.#now(), draw: this.#context.random.draw() };
    this.#plan = planRetry(this.#plan, failed, this.#context.options);
    this.#meters.tried("failed");
    const fields = {
      code: refusal.code,
      because: refusal.message,
      hint: refusal.hint,
      failures: this.#plan.failures,
      next: isoOf(this.#plan.nextAtMs),
      ...(held === undefined ? {} : { notAfter: isoOf(held.notAfterMs) }),
      ...(thrown === undefined ? {} : { error: thrown }),
    };
    const late = held === undefined || failed.now.wallMs > held.notAfterMs - (held.notAfterMs - held.issuedAtMs) * 0.1;
    if (isForPerson(refusal.code) || late)
      this.#log.error("the certificate could not be renewed; a person is needed soon", fields);
    else this.#log.warn("the certificate could not be renewed; it stays in use and is tried again", fields);
    if (held === undefined && isForPerson(refusal.code)) this.#giveUp(refusal);
  }

  /** Without a certificate that will be in date again by itself, whoever waits would wait for ever. */
  #giveUp({ code, message, hint }: Refusal): void {
    const because = message.replace(/^Cannot[^:]*: /, "");
    const { path } = this.#context.stateFolder;
    this.#hopeless = refuse(code, `Cannot come back from ${path}: it holds no usable identity, and ${because}`, hint);
    for (const giveUp of this.#whenHopeless) giveUp(this.#hopeless);
    this.#whenHopeless.clear();
  }

  #hold(stored: Stored, plan: typeof planAfterIssue = planRenewal): void {
    const { wallMs } = this.#now();
    this.#held = stored;
    this.#plan = plan(stored.issued, stored.draw, wallMs);
    if (isInDate(stored.issued, wallMs)) this.#publish(stored.issued);
  }

  #publish(issued: Issued): void {
    const { id, chain, key, roots, bundleSequence, issuedAtMs, notAfterMs } = issued;
    const generation = ++this.#generation;
    this.current.publish(
      Object.freeze({
        id,
        chain,
        key,
        roots,
        bundleSequence,
        issuedAtMs,
        notAfterMs,
        generation,
      } satisfies TlsIdentity),
    );
  }

  #now(): Now {
    const { clock } = this.#context;
    return { wallMs: clock.wallMs(), monotonicMs: clock.monotonicMs() };
  }
}

function inDateMs(issued: Issued, wallMs: number): number {
  return Math.min(Math.max(wallMs, issued.issuedAtMs), issued.notAfterMs - 1);
}

function isoOf(ms: number): string {
  return Number.isFinite(ms) ? new Date(ms).toISOString() : "never";
}

function tokenNeeded(): Refusal {
  return refuse(
    "TOKEN_NEEDED",
    "Cannot enroll: no usable identity is on disk and no enrollment token was given",
    "Make one on the control plane's machine and hand it over: hauberk token create --service NAME, then --token-file PATH",
  );
}

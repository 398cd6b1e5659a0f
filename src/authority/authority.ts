import type { Clock } from "../base/clock.ts";
import { assert, isRefusal, refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { Random } from "../base/random.ts";
import { controlId } from "../base/spiffe-id.ts";
import type { EnrollRequest, IssuedAnswer, RecoverRequest, RenewRequest, RootsAnswer } from "../contract/enrollment.ts";
import type { BundleView } from "../contract/watch.ts";
import type { AdminRow, AuditRow, InstanceRow, LeafRow, Page, TokenRow } from "../storage/rows.ts";
import type { Pruned, PruneLimits, Store } from "../storage/store.ts";
import { fingerprintOf, readCertificate } from "../x509/certificate.ts";
import { generateKey, spkiOf } from "../x509/keys.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { verifyWorkload } from "../x509/verify.ts";
import { adminOf, issueAdmin, revokeAdmin, type AdminRequest } from "./administrators.ts";
import { AuditLog } from "./audit-log.ts";
import { openCa, type OpenedCa } from "./ca-files.ts";
import { issue, type Desk, type PresentedLeaf, type Urls } from "./desk.ts";
import { enroll } from "./enrollment.ts";
import type { authorityOptions } from "./options.ts";
import { recover, recoverChallenge } from "./recovery.ts";
import { RecoveryChallenges } from "./recovery-challenge.ts";
import { renew, seen, type Standing } from "./renewal.ts";
import { Signer } from "./signer.ts";
import { createToken, revokeToken, type CreatedToken, type TokenRequest } from "./tokens.ts";

export type { AdminRequest } from "./administrators.ts";
export type { PresentedLeaf, Urls } from "./desk.ts";
export type { Standing } from "./renewal.ts";
export type { CreatedToken, TokenRequest } from "./tokens.ts";

export interface AuthorityContext {
  readonly store: Store;
  /** `ca` of a mesh home: profiles, certificates, sealed keys. */
  readonly caFolder: string;
  /** The issuing passphrase; the root's is never asked for. */
  readonly passphrase: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly options: OptionValues<typeof authorityOptions>;
  /** Where the listeners answer; may be set later with `announce`. */
  readonly urls?: Urls;
}

/**
 * The authority: decides what to sign, signs it, and writes down why (DESIGN, section 5).
 * Every decision that changes something is one transaction of the store, its audit line included.
 */
export class Authority {
  readonly #desk: Desk;
  #generation = 0;

  private constructor(desk: Desk) {
    this.#desk = desk;
  }

  /** Opens the CA with the issuing passphrase. Throws HOME_MISSING, PASSPHRASE_WRONG, STATE_DAMAGED or CONFIG_INVALID. */
  static async open(context: AuthorityContext): Promise<Authority> {
    return Authority.over(openCa(context.caFolder, context.passphrase, context.store.trustDomain), context);
  }

  /** The same over a CA that is open already. Throws CONFIG_INVALID where options and profiles contradict. */
  static async over(ca: OpenedCa, context: Omit<AuthorityContext, "caFolder" | "passphrase">): Promise<Authority> {
    const { store, clock, random, options } = context;
    const { trustDomain } = store;
    return new Authority({
      store,
      clock,
      random,
      options,
      trustDomain,
      ca,
      signer: new Signer({ ca, random, trustDomain, options }),
      log: new AuditLog({ store, clock, refusalsPerSecond: options.auditRefusalsPerSecond }),
      challenges: new RecoveryChallenges({ clock, random, lifetimeMs: options.challengeLifetimeMs }),
      bundle: await publishBundle(store, ca),
      intermediate: ca.issuer.certificate.der.toString("base64"),
      urls: context.urls ?? { control: [], enrollment: [] },
    });
  }

  get trustDomain(): string {
    return this.#desk.trustDomain;
  }

  /** When the issuing certificate ends: nothing that is signed lives longer. */
  get issuerNotAfterMs(): number {
    return this.#desk.ca.issuer.certificate.notAfterMs;
  }

  /** Where the listeners answer: goes into tokens and answers. */
  announce(urls: Urls): void {
    this.#desk.urls = urls;
  }

  /** The bundle of the own trust domain. */
  bundle(): BundleView {
    return this.#desk.bundle;
  }

  /** `GET /v1/roots`. */
  rootsAnswer(): RootsAnswer {
    return { trustDomain: this.trustDomain, roots: this.#desk.bundle.roots };
  }

  /** GRANT_IMPOSSIBLE, or USAGE for numbers out of range and for want of a URL. */
  createToken(request: TokenRequest): Promise<CreatedToken | Refusal> {
    return createToken(this.#desk, request);
  }

  listTokens(page?: Page): Promise<TokenRow[]> {
    return this.#desk.store.tokens(page);
  }

  revokeToken(id: string, by: string): Promise<true | Refusal> {
    return revokeToken(this.#desk, id, by);
  }

  /** `from` is the remote address, for the audit log. Codes: TOKEN_*, CSR_*, KEY_REUSED, INSTANCE_LOCKED, GRANT_IMPOSSIBLE, ISSUER_EXPIRED. */
  enroll(request: EnrollRequest, from: string): Promise<IssuedAnswer | Refusal> {
    return enroll(this.#desk, request, from);
  }

  /** For workloads and administrators. Codes: LEAF_*, CSR_*, KEY_REUSED, CLONE_DETECTED, INSTANCE_LOCKED, ISSUER_EXPIRED. */
  renew(leaf: PresentedLeaf, request: RenewRequest, from: string): Promise<IssuedAnswer | Refusal> {
    return renew(this.#desk, { shown: leaf, request, from });
  }

  recoverChallenge(): { readonly challenge: string } | Refusal {
    return recoverChallenge(this.#desk);
  }

  /** Codes: RECOVERY_*, CSR_*, KEY_REUSED, INSTANCE_LOCKED, ISSUER_EXPIRED. */
  recover(request: RecoverRequest, from: string): Promise<IssuedAnswer | Refusal> {
    return recover(this.#desk, request, from);
  }

  /** To be asked once per connection to the mesh API: who is it, may it go on; marks the leaf as seen. */
  seen(leaf: PresentedLeaf, from: string): Promise<Standing | Refusal> {
    return seen(this.#desk, leaf, from);
  }

  /** A fresh key and leaf for the control plane itself, verified as a stranger would before it is handed out. */
  async issueControl(): Promise<TlsIdentity | Refusal> {
    const desk = this.#desk;
    const atMs = desk.clock.wallMs();
    const life = desk.signer.lifeOf("control", atMs);
    if (isRefusal(life)) return life;
    const key = generateKey();
    const identity = controlId(this.trustDomain);
    const wish = {
      holder: "control",
      owner: "control",
      identity,
      spki: spkiOf(key),
      parent: null,
      token: null,
    } as const;
    const row = await desk.store.write(async (tx) => {
      const leaf = await issue(desk, tx, { ...wish, life });
      const reason = "its own certificate";
      await desk.log.done(tx, {
        what: "control",
        who: identity,
        verdict: "issued",
        reason,
        serial: leaf.serial,
        parent: null,
      });
      return leaf;
    });
    const leaf = readCertificate(Buffer.from(row.der));
    assert(!isRefusal(leaf), "the control plane's certificate cannot be read");
    const { roots, issuer } = desk.ca;
    const chain = [leaf, issuer.certificate];
    const peer = verifyWorkload({ chain, roots, trustDomain: this.trustDomain, atMs, expect: identity });
    if (isRefusal(peer)) return peer;
    this.#generation += 1;
    return Object.freeze({
      id: peer.id,
      chain,
      key,
      roots,
      bundleSequence: desk.bundle.sequence,
      issuedAtMs: row.issuedAtMs,
      notAfterMs: row.notAfterMs,
      generation: this.#generation,
    });
  }

  /** ADMINISTRATOR_EXISTS when the name has a live certificate, unless `replace`. */
  issueAdmin(request: AdminRequest): Promise<IssuedAnswer | Refusal> {
    return issueAdmin(this.#desk, request);
  }

  /** NOT_AN_ADMINISTRATOR unless the leaf is a live one of an administrator. */
  adminOf(leaf: PresentedLeaf): Promise<{ readonly name: string } | Refusal> {
    return adminOf(this.#desk, leaf);
  }

  listAdmins(): Promise<AdminRow[]> {
    return this.#desk.store.admins();
  }

  revokeAdmin(name: string, by: string): Promise<true | Refusal> {
    return revokeAdmin(this.#desk, name, by);
  }

  listLeaves(page?: Page & { readonly owner?: string }): Promise<LeafRow[]> {
    return this.#desk.store.leaves(page);
  }

  listInstances(page?: Page): Promise<InstanceRow[]> {
    return this.#desk.store.instances(page);
  }

  /** NOT_FOUND for an unknown instance; one that is locked stays locked for its first reason. */
  lockInstance(id: string, decision: { readonly by: string; readonly because: string }): Promise<true | Refusal> {
    const { store, clock, log } = this.#desk;
    return store.write(async (tx) => {
      const instance = await tx.instance(id);
      if (instance === undefined) return noInstance("lock");
      const { by, because } = decision;
      const locked = await tx.lockInstance(id, { atMs: clock.wallMs(), because: `${because} (by ${by})` });
      const reason = `${because}, by ${by}`;
      if (locked) await log.done(tx, { what: "lock", who: instance.identity, verdict: "done", reason, instance: id });
      return true;
    });
  }

  /** Lets the instance go on with whichever of its leaves shows up first. */
  unlockInstance(id: string, by: string): Promise<true | Refusal> {
    const { store, clock, log } = this.#desk;
    return store.write(async (tx) => {
      const instance = await tx.instance(id);
      if (instance === undefined) return noInstance("unlock");
      const unlocked = await tx.unlockInstance(id, clock.wallMs());
      const reason = `by ${by}`;
      if (unlocked)
        await log.done(tx, { what: "unlock", who: instance.identity, verdict: "done", reason, instance: id });
      return true;
    });
  }

  listAudit(page?: Page<number>): Promise<AuditRow[]> {
    return this.#desk.store.audit(page);
  }

  /** Deletes a portion of what is older than the limits; see `pruneLimits` in storage. */
  prune(limits: PruneLimits): Promise<Pruned> {
    return this.#desk.store.write((tx) => tx.prune(limits));
  }
}

/** The sequence grows exactly when the roots are others than at the last start. */
async function publishBundle(store: Store, ca: OpenedCa): Promise<BundleView> {
  const digest = ca.roots
    .map((root) => fingerprintOf(root.der))
    .toSorted()
    .join(",");
  const meta = await store.meta();
  const sequence =
    meta.bundleDigest === digest ? meta.bundleSequence : await store.write((tx) => tx.setBundleDigest(digest));
  const roots = ca.roots.map((root) => root.der.toString("base64"));
  return Object.freeze({ trustDomain: store.trustDomain, sequence, roots: Object.freeze(roots) });
}

function noInstance(action: "lock" | "unlock"): Refusal {
  return refuse("NOT_FOUND", `Cannot ${action} the instance: there is none with this id`, "List them first");
}

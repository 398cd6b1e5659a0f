import { isRefusal, type FailureCode, type Refusal } from "../base/errors.ts";
import type { Published } from "../base/published.ts";
import type { SpiffeId } from "../base/spiffe-id.ts";
import type { RouteePort } from "../contract/watch.ts";
import type { Fields, RequestHead } from "../http/message.ts";
import { normalizePath } from "../http/target.ts";
import { decide, type Call, type TokenState } from "../policy/decide.ts";
import type { ResilienceLimits } from "../resilience/options.ts";
import { mayRetry, type RetryBudget } from "../resilience/retry.ts";
import type { ClientConnection, Handler, Loss, ServerExchange } from "../transport/exchange.ts";
import { noBearer, type Bearer } from "./bearer.ts";
import { Attempt, Carry, type CarryContext } from "./carry.ts";
import type { PeerShare } from "./peer-share.ts";
import { addLabels, shortenGrpcTimeout, takeRequest, viaOf } from "./headers.ts";
import type { TokenVerifier } from "./jwt.ts";
import {
  noPath,
  noPeer,
  noTrace,
  notAllowed,
  notServed,
  notTaken,
  peerTooMany,
  peerTooManyTunnels,
  tooMany,
  tooManyTunnels,
  unknownService,
  upstreamInvalid,
  upstreamLost,
} from "./refusals.ts";
import type { Route, Routes } from "./routes.ts";
import { respell } from "./spelling.ts";
import type { Snapshot } from "./snapshot.ts";
import type { Standing, StandingCalls } from "./standing.ts";

/** Takes requests for one declared port of the routee, and connects as it needs to. */
export type RouteeSender = Pick<ClientConnection, "request">;

export interface DeclaredPort {
  readonly port: RouteePort;
  readonly sender: RouteeSender;
}

/**
 * A request of a peer, whose identity TLS and our own check have proven: normalize, JWT, decide with everything visible,
 * limits, and only then the routee, at a port that was declared here. Nothing is dialled from what the peer wrote.
 */
export interface InboundContext extends CarryContext {
  readonly resilience: ResilienceLimits;
  readonly snapshot: Published<Snapshot>;
  readonly verifier: TokenVerifier;
  /** Reads authorities as the own namespace does. */
  readonly routes: Routes;
  /** `orders.default` */
  readonly service: string;
  /** The own SPIFFE ID. */
  readonly ownId: () => string;
  /** The ports of the routee; the first that is not TCP is the default. */
  readonly ports: readonly DeclaredPort[];
  readonly budget: RetryBudget;
  /** What was let in, for as long as it lasts. */
  readonly standing: StandingCalls;
  /** All that the peer of this connection has open, over whichever connections, and what all peers have. */
  readonly openRequests: PeerShare;
  readonly openTunnels: PeerShare;
}

export function inboundHandler(context: InboundContext): Handler {
  return (exchange) => new InboundCall(context, exchange).start();
}

class InboundCall extends Carry implements Call, Standing {
  // What policy sees.
  readonly principal: SpiffeId | undefined;
  readonly method: string;
  path = "";
  host = "";
  port = 0;
  standingAt = -1;
  readonly fields: Fields;
  readonly sourceAddress: string;
  /** A TCP connection: policy sees its port and who opens it. */
  readonly #tcp: boolean;

  readonly #context: InboundContext;
  #snapshot: Snapshot | undefined = undefined;
  #bearer: Bearer = noBearer;
  #states: Map<string, TokenState> | undefined = undefined;
  /** It was judged again, and for want of keys nobody could say. */
  #doubted = false;
  #sender: RouteeSender | undefined = undefined;
  #head: RequestHead | undefined = undefined;
  #target = "";
  #authority = "";
  /** The routee is spoken to in HTTP/1.1, where names have a case. */
  #inHttp1 = false;
  #tries = 0;

  constructor(context: InboundContext, exchange: ServerExchange) {
    super(context, exchange, takeRequest(exchange.head));
    this.#context = context;
    this.principal = exchange.connection.peer?.id;
    this.method = exchange.head.method;
    this.#tcp = this.method === "CONNECT";
    this.fields = this.#tcp ? [] : this.notes.fields;
    this.sourceAddress = exchange.connection.remoteAddress;
    this.service = context.service;
  }

  start(): void {
    try {
      this.#start();
    } catch (thrown) {
      this.fault(thrown);
    }
  }

  #start(): void {
    const context = this.#context;
    const { head } = this.exchange;
    if (this.principal === undefined) return this.refuse(noPeer);
    if (this.tunnels) {
      const { tunnelsMax, peerShareRatio } = context.options;
      if (context.openTunnels.value > tunnelsMax) return this.refuse(tooManyTunnels);
      if (context.openTunnels.isExceeded(tunnelsMax, peerShareRatio)) return this.refuse(peerTooManyTunnels);
    }
    if (head.method === "TRACE") return this.refuse(noTrace);
    if (!this.#tcp) {
      const target = normalizePath(head.path);
      if (isRefusal(target)) return this.refuse(target);
      if (target.path === "" || (target.path === "*" && head.method !== "OPTIONS")) return this.refuse(noPath);
      this.path = target.path;
      this.#target = target.target;
    }
    const sender = this.#findPort(head.authority);
    if (isRefusal(sender)) {
      // Who may not call in any case learns nothing of ports and names by asking for one after the other.
      const seen = context.snapshot.read().own.couldAllow(this.principal);
      return this.refuse(seen ? sender : unknownService(context.service));
    }
    this.#sender = sender;
    if (this.notes.timeoutMs === 0) return this.ring();
    this.#setDeadline(this.startedMs);
    const snapshot = context.snapshot.read();
    this.#snapshot = snapshot;
    const names = snapshot.own.policies.providers;
    if (!this.#tcp && names.length > 0 && !this.#tokensKnown(names, snapshot)) return this.#verify(names, snapshot);
    this.#decide(snapshot);
  }

  token(provider: string): TokenState {
    const { verifier } = this.#context;
    return (
      this.#states?.get(provider) ??
      verifier.check(provider, this.#bearer, (this.#snapshot as Snapshot).providers) ??
      notVerified
    );
  }

  /**
   * The declared port that the authority means. Its host must be this service's name; its port one that was declared, for TCP
   * where it is a CONNECT and for HTTP where it is a request: neither ever arrives at a port of the other kind.
   */
  #findPort(authority: string): RouteeSender | Refusal {
    const { routes, service } = this.#context;
    const route = routes.read(authority);
    if (isRefusal(route)) return route.code === "REQUEST_INVALID" ? route : notServed(authority);
    if (route.key !== service) return notServed(authority);
    if (this.#tcp) return this.#findTcpPort(route);
    const named = route.port;
    // A client without a sidecar names the port that it connected to: that is no port of the routee.
    const own = named === undefined || named === this.exchange.connection.localPort;
    const declared = this.#declared(named) ?? (own ? this.#declared(undefined) : undefined);
    if (declared === undefined) return notServed(authority);
    this.host = route.policyHost;
    this.port = declared.port.port;
    this.#inHttp1 = declared.port.protocol === "http";
    this.#authority = declared.port.port === named ? route.authority : route.host;
    return declared.sender;
  }

  #findTcpPort(route: Route): RouteeSender | Refusal {
    // An authority with port 80 reads like one without, which is enough for HTTP; a CONNECT always names one.
    const declared = this.#declared(route.port ?? 80);
    if (declared === undefined) return notServed(this.exchange.head.authority);
    this.host = route.policyHost;
    this.port = declared.port.port;
    this.#authority = `${route.host}:${this.port}`;
    return declared.sender;
  }

  /** A declared port of the kind that this call is for, by number; without one the first. */
  #declared(number: number | undefined): DeclaredPort | undefined {
    for (const declared of this.#context.ports) {
      const { port, protocol } = declared.port;
      if ((protocol === "tcp") === this.#tcp && (number === undefined || port === number)) return declared;
    }
    return undefined;
  }

  #tokensKnown(names: readonly string[], snapshot: Snapshot): boolean {
    const { verifier, options } = this.#context;
    this.#bearer = verifier.bearers.read(this.notes.authorization, this.notes.authorizations, options.tokenMaxBytes);
    for (let i = 0; i < names.length; i++) {
      if (verifier.check(names[i] as string, this.#bearer, snapshot.providers) === undefined) return false;
    }
    return true;
  }

  #verify(names: readonly string[], snapshot: Snapshot): void {
    // Who may not call in any case learns nothing, and causes no work, by sending tokens.
    if (!snapshot.own.couldAllow(this.principal as SpiffeId)) return this.#refuseCall("DENIED", snapshot);
    // Keys that have to be fetched may take seconds: such calls are not to pile up.
    if (this.#isTooMany()) return;
    this.waits();
    const { verifier } = this.#context;
    Promise.all(names.map((name) => verifier.verify(name, this.#bearer, snapshot.providers)))
      .then((states) => {
        if (this.isOver) return;
        this.#states = new Map(names.map((name, i) => [name, states[i] as TokenState]));
        this.#decide(snapshot);
        // It may have taken a while, and nobody has judged this call by what came meanwhile.
        this.judgeAgain(true);
      })
      .catch((thrown: unknown) => this.fault(thrown));
  }

  /** Called from a turn of its own, where nobody else would catch what it throws. */
  judgeAgain(last: boolean): void {
    try {
      this.#judgeAgain(last);
    } catch (thrown) {
      this.fault(thrown);
    }
  }

  /** Policies or providers have changed. What was known of the token when the call came stands, also where it has expired since. */
  #judgeAgain(last: boolean): void {
    const snapshot = this.#context.snapshot.read();
    const before = this.#snapshot;
    if (this.isOver || before === undefined || (snapshot === before && !this.#doubted)) return;
    const { verifier, options } = this.#context;
    this.#snapshot = snapshot;
    const known = this.#states;
    const states = new Map<string, TokenState>();
    this.#states = states;
    if (!this.#tcp) {
      this.#bearer = verifier.bearers.read(this.notes.authorization, this.notes.authorizations, options.tokenMaxBytes);
      for (const name of snapshot.own.policies.providers) {
        const same = snapshot.providers.get(name) === before.providers.get(name);
        const state = (same ? known?.get(name) : undefined) ?? verifier.check(name, this.#bearer, snapshot.providers);
        if (state !== undefined) states.set(name, state);
      }
    }
    const missing = this.#tcp ? [] : snapshot.own.policies.providers.filter((name) => !states.has(name));
    if (missing.length === 0) return this.#decideAgain(snapshot, last);
    Promise.all(missing.map((name) => verifier.verify(name, this.#bearer, snapshot.providers)))
      .then((found) => {
        missing.forEach((name, i) => states.set(name, found[i] as TokenState));
        if (!this.isOver && this.#states === states) this.#decideAgain(snapshot, last);
      })
      .catch((thrown: unknown) => this.fault(thrown));
  }

  #decideAgain(snapshot: Snapshot, last: boolean): void {
    const { principal, method, path, host, port, sourceAddress } = this;
    // As they came: what goes to the routee has labels of ours among them.
    const fields = this.#tcp ? [] : takeRequest(this.exchange.head).fields;
    const token = (provider: string): TokenState => this.token(provider);
    const call = { principal, method, path, host, port, fields, sourceAddress, token };
    const decision = decide(snapshot.own.policies, call);
    this.#doubted = !last && decision.code === "JWT_KEYS_UNAVAILABLE";
    if (decision.verdict === "allow" || this.#doubted) return;
    this.decidedBy = decision.by;
    this.#refuseCall(decision.code ?? "DENIED", snapshot);
  }

  #decide(snapshot: Snapshot): void {
    const context = this.#context;
    const decision = decide(snapshot.own.policies, this);
    this.decidedBy = decision.by;
    this.audit(decision.audits);
    // Here everything can be seen: what is still unknown is no.
    if (decision.verdict !== "allow") return this.#refuseCall(decision.code ?? "DENIED", snapshot);
    if (this.#isTooMany()) return;
    context.budget.deposit(this.startedMs);
    const { providers } = snapshot.own.policies;
    if (!this.#tcp && providers.length > 0) this.#states ??= new Map(providers.map((name) => [name, this.token(name)]));
    this.#complete(snapshot);
    context.standing.add(this);
    this.#send();
  }

  /** Refuses what is more than the routee is to get at once, from all or from this peer. */
  #isTooMany(): boolean {
    const { openRequests, options } = this.#context;
    if (openRequests.value > options.inboundRequestsMax) this.refuse(tooMany);
    else if (openRequests.isExceeded(options.inboundRequestsMax, options.peerShareRatio)) this.refuse(peerTooMany);
    else return false;
    return true;
  }

  #refuseCall(code: FailureCode, snapshot: Snapshot): void {
    const { service } = this.#context;
    const seen = snapshot.own.couldAllow(this.principal as SpiffeId);
    this.refuse(seen ? notAllowed(code, service) : unknownService(service));
  }

  /** What the routee gets to know: who called, under which id and trace; the token where its provider says so. */
  #complete(snapshot: Snapshot): void {
    const { fields } = this;
    if (this.notes.authorization !== undefined && this.#keepsToken(snapshot)) {
      for (let i = fields.length - 2; i >= 0; i -= 2) {
        if (fields[i] !== "authorization") continue;
        fields.splice(i, 2);
        if (i < this.notes.grpcTimeoutAt) this.notes.grpcTimeoutAt -= 2;
      }
    }
    if (this.#inHttp1) respell(fields, this.notes.spelling === "" ? this.notes.saidSpelling : this.notes.spelling);
    const peer = this.principal as SpiffeId;
    const by = `By=${this.#context.ownId()};URI=${peer.text}`;
    fields.push("via", viaOf(this.exchange.connection), "x-forwarded-client-cert", by);
    addLabels(fields, this, this.#context.labels);
    const { method, bodyLength, upgrade } = this.exchange.head;
    const head = { method, scheme: "http", authority: this.#authority, path: this.#target, fields, bodyLength };
    this.#head = upgrade === undefined ? head : { ...head, upgrade };
  }

  #keepsToken(snapshot: Snapshot): boolean {
    return snapshot.own.policies.providers.some(
      (name) => snapshot.providers.get(name)?.forward === false && this.token(name).is === "valid",
    );
  }

  #send(): void {
    this.#tries++;
    if (this.notes.grpcTimeoutMs !== undefined) {
      shortenGrpcTimeout(this.notes, this.#context.clock.monotonicMs() - this.startedMs);
    }
    const attempt = new Attempt(this);
    if (!this.sendOn(this.#sender as RouteeSender, attempt, this.#head as RequestHead)) {
      attempt.over = true;
      this.refuse(notTaken(this.service));
    }
  }

  protected override lost(_attempt: Attempt, loss: Loss): Refusal | undefined {
    const { budget, clock } = this.#context;
    const { method, repeatedAs, replayable, headWritten } = this;
    const again =
      mayRetry({
        method: repeatedAs,
        loss: loss.kind,
        headWritten,
        bodyReplayable: replayable,
        attempt: this.#tries,
      }) && budget.withdraw(clock.monotonicMs());
    if (again) {
      // A kept connection that the routee closed as the request came: another one is at hand at once. The pool must be
      // through with the old one first.
      queueMicrotask(() => {
        try {
          if (!this.isOver) this.#send();
        } catch (thrown) {
          this.fault(thrown);
        }
      });
      return undefined;
    }
    if (loss.kind === "unprocessed") return notTaken(this.service);
    return loss.kind === "invalid" ? upstreamInvalid(this.service) : upstreamLost(method, this.service);
  }

  protected override judged(): boolean {
    return false;
  }

  protected override concluded(): void {
    // There is one routee, and nothing to learn of it.
  }

  protected override released(): void {
    // The pool keeps the books itself.
  }

  protected override stopWaiting(): void {
    // A verification that nobody waits for any more only fills the cache.
  }

  protected override ended(): void {
    this.#context.standing.delete(this);
  }

  protected override requestComplete(): void {
    this.#setDeadline(this.#context.clock.monotonicMs());
  }

  #setDeadline(nowMs: number): void {
    const { ownLimitMs } = this;
    const { timeoutMs } = this.notes;
    const callersMs = timeoutMs === undefined ? Infinity : this.startedMs + Math.min(timeoutMs, ownLimitMs);
    const deadlineMs = Math.min(callersMs, this.answerIsDue ? nowMs + ownLimitMs : Infinity);
    if (deadlineMs !== Infinity) this.#context.alarms.set(this, deadlineMs);
  }

  protected override get principalText(): string {
    return this.principal?.text ?? "";
  }

  protected override get endpointName(): string {
    return this.#tries === 0 ? "" : `127.0.0.1:${this.port}`;
  }
}

const notVerified: TokenState = Object.freeze({ is: "unavailable", because: "the token was not verified" });

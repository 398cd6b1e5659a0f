import { isRefusal, type FailureCode, type Refusal } from "../base/errors.ts";
import type { Published } from "../base/published.ts";
import type { Random } from "../base/random.ts";
import type { SpiffeId } from "../base/spiffe-id.ts";
import { fieldOf, type Fields, type RequestHead, type ResponseHead } from "../http/message.ts";
import { normalizePath } from "../http/target.ts";
import { decide, type Call, type TokenState } from "../policy/decide.ts";
import { couldAllow } from "../policy/reduce.ts";
import { backoffMs } from "../resilience/backoff.ts";
import { grpcStatusFails, lossFails, refusedTicket, statusFails } from "../resilience/breaker.ts";
import { timeoutField } from "../resilience/deadline.ts";
import type { LossKind } from "../resilience/loss.ts";
import type { ResilienceLimits } from "../resilience/options.ts";
import { mayRetry } from "../resilience/retry.ts";
import type { BodyEvents, ClientConnection, Handler, Loss, ServerExchange } from "../transport/exchange.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { noBearer, type Bearer } from "./bearer.ts";
import { pageGuard, type BrowserGuard } from "./browser-guard.ts";
import { Attempt, Carry, type CarryContext } from "./carry.ts";
import type { Discovery } from "./discovery.ts";
import { callOutside, type EgressContext, type EgressTerms } from "./egress.ts";
import { addLabels, shortenGrpcTimeout, takeRequest, viaOf } from "./headers.ts";
import type { Waiter } from "./hop.ts";
import type { TokenVerifier } from "./jwt.ts";
import {
  breakerOpen,
  noIdentity,
  noPath,
  noTrace,
  noTunnel,
  notAllowed,
  lostBefore,
  notTaken,
  secretWrong,
  tooMany,
  tooManyTunnels,
  unknownService,
  upstreamInvalid,
  upstreamLost,
} from "./refusals.ts";
import type { Route, Routes } from "./routes.ts";
import type { Service, Snapshot } from "./snapshot.ts";
import type { TcpRefusals } from "./tcp-refusals.ts";
import { spellingField } from "./spelling.ts";
import type { Endpoint, Upstream, Upstreams, Wanted } from "./upstream.ts";

/**
 * A request of the workload: normalize, route, JWT, decide, and only then look at endpoints, balance, pass the breaker and
 * send (DESIGN, section 6). Where everything is known already, all of it happens in one synchronous call.
 */
export interface OutboundContext extends CarryContext {
  readonly random: Random;
  readonly resilience: ResilienceLimits;
  readonly identity: Published<TlsIdentity | undefined>;
  readonly snapshot: Published<Snapshot>;
  readonly discovery: Discovery;
  readonly verifier: TokenVerifier;
  readonly upstreams: Upstreams;
  readonly routes: Routes;
  readonly tcpRefusals: TcpRefusals;
  /** What leaves the mesh. */
  readonly egress: EgressContext;
}

/** How a listener is guarded, and where it leads. */
export interface OutboundListener {
  /** The whole value that Proxy-Authorization must have; undefined for an open listener. */
  readonly secret?: string | undefined;
  /** Where this listener leads, whatever is asked for. */
  readonly to?: Route | undefined;
  /** Whether a CONNECT is taken: as a TCP connection. */
  readonly connects?: boolean;
  /** Keeps web pages out. */
  readonly guard?: BrowserGuard | undefined;
}

/** The handler of one outbound listener. */
export function outboundHandler(context: OutboundContext, listener: OutboundListener): Handler {
  return (exchange) => void callOutbound(context, exchange, listener);
}

/** The same for one exchange; gives who listens to it. */
export function callOutbound(
  context: OutboundContext,
  exchange: ServerExchange,
  listener: OutboundListener,
): BodyEvents {
  const outside = listener.to === undefined ? context.routes.outside(exchange.head.authority) : undefined;
  if (outside !== undefined) return callOutside(context.egress, { exchange, outside }, egressTerms(exchange, listener));
  const call = new OutboundCall(context, exchange);
  call.start(listener);
  return call;
}

/** Where there is a secret no web page knows it; an open listener takes nothing that a browser sends for one. */
function egressTerms({ head }: ServerExchange, { secret, connects = false, guard }: OutboundListener): EgressTerms {
  return {
    shown: showsSecret(head.fields, secret),
    connects,
    guard: guard ?? (secret === undefined ? pageGuard : undefined),
  };
}

/** Whether the workload showed the secret of a guarded listener. */
export function showsSecret(fields: Fields, secret: string | undefined): boolean {
  return secret === undefined || sameText(fieldOf(fields, "proxy-authorization") ?? "", secret);
}

class OutboundAttempt extends Attempt {
  readonly endpoint: Endpoint;
  readonly ticket: number;
  /** The breaker has its lesson. */
  learned = false;

  constructor(call: OutboundCall, endpoint: Endpoint, ticket: number) {
    super(call);
    this.endpoint = endpoint;
    this.ticket = ticket;
  }
}

/** What a callee's sidecar says before its routee has seen anything of the request: it may be sent again, whatever its method. */
const unprocessedCodes: ReadonlySet<string> = new Set<FailureCode>([
  "CONNECT_FAILED",
  "LIMIT_REQUESTS",
  "LIMIT_CONNECTIONS",
  "LIMIT_PEER",
]);
/**
 * What it says of its caller, or of tunnels alone, and opens no breaker: else whoever takes an endpoint's tunnels, or most of its
 * places, which makes the shares of all others small, would shut them out of it whole.
 */
const callersCodes: ReadonlySet<string> = new Set<FailureCode>(["LIMIT_CONNECTIONS", "LIMIT_PEER"]);
/** Sent again without counting as a retry: the stream was refused whole by a connection that was going away. */
const resendsMax = 3;
const noEndpoints: readonly Endpoint[] = [];

class OutboundCall extends Carry implements Call, Waiter, Wanted {
  // What policy sees.
  principal: SpiffeId | undefined = undefined;
  readonly method: string;
  path = "";
  host = "";
  port = 0;
  readonly fields: Fields;
  readonly sourceAddress = undefined;
  /** A TCP connection: it has a port, and nothing else that policy could see. */
  readonly tcp: boolean;

  readonly #context: OutboundContext;
  #snapshot: Snapshot | undefined = undefined;
  #route: Route | undefined = undefined;
  #found: Service | undefined = undefined;
  #upstream: Upstream | undefined = undefined;
  #bearer: Bearer = noBearer;
  #states: Map<string, TokenState> | undefined = undefined;
  #target = "";
  #deadlineMs = Infinity;
  #head: RequestHead | undefined = undefined;
  /** Where the value of the deadline stands in the fields; 0 for nowhere. */
  #timeoutAt = 0;
  #waitingFor: OutboundAttempt | undefined = undefined;
  #cancelBackoff: (() => void) | undefined = undefined;
  #tries = 0;
  #resends = 0;
  #tried: readonly Endpoint[] = noEndpoints;
  #last: Endpoint | undefined = undefined;
  #late = false;

  constructor(context: OutboundContext, exchange: ServerExchange) {
    super(context, exchange, takeRequest(exchange.head));
    this.#context = context;
    this.method = exchange.head.method;
    this.tcp = this.method === "CONNECT";
    this.fields = this.tcp ? [] : this.notes.fields;
    // Before the decision: the callee decides on the fields with it.
    if (!this.tcp) this.fields.push("via", viaOf(exchange.connection));
  }

  start(listener: OutboundListener): void {
    try {
      this.#start(listener);
    } catch (thrown) {
      this.fault(thrown);
    }
  }

  #start({ secret, to, connects, guard }: OutboundListener): void {
    const context = this.#context;
    const { head } = this.exchange;
    if (!showsSecret(head.fields, secret)) return this.refuse(secretWrong);
    if (context.openRequests.value > context.options.outboundRequestsMax) return this.refuse(tooMany);
    if (this.tunnels && context.openTunnels.value > context.options.tunnelsMax) return this.refuse(tooManyTunnels);
    if (this.tcp && connects !== true) return this.refuse(noTunnel);
    if (head.method === "TRACE") return this.refuse(noTrace);
    const foreign = guard?.(head);
    if (foreign !== undefined) return this.refuse(foreign);
    if (!this.tcp) {
      const target = normalizePath(head.path);
      if (isRefusal(target)) return this.refuse(target);
      if (target.path === "" || (target.path === "*" && head.method !== "OPTIONS")) return this.refuse(noPath);
      this.path = target.path;
      this.#target = target.target;
    }
    const route = to ?? context.routes.read(head.authority);
    if (isRefusal(route)) return this.refuse(route);
    this.#route = route;
    this.host = route.policyHost;
    this.principal = context.identity.read()?.id;
    if (this.principal === undefined) return this.refuse(noIdentity);
    if (this.notes.timeoutMs === 0) return this.ring();
    this.#setDeadline(this.startedMs);
    const snapshot = context.snapshot.read();
    this.#snapshot = snapshot;
    const service = context.discovery.known(route.key, snapshot);
    if (service !== undefined) return this.#authorize(service, this.startedMs);
    this.waits();
    context.discovery.find(route.key, (answer) => {
      try {
        if (!this.isOver) this.#foundOut(answer);
      } catch (thrown) {
        this.fault(thrown);
      }
    });
  }

  #foundOut(answer: Service | null | Refusal): void {
    const { snapshot, clock } = this.#context;
    // Nothing was known of the service before: this is the snapshot that the request keeps.
    this.#snapshot = snapshot.read();
    if (isRefusal(answer)) this.refuse(answer);
    else this.#authorize(answer, clock.monotonicMs());
  }

  get wantedPort(): number | undefined {
    return this.#route?.port;
  }

  token(provider: string): TokenState {
    const known = this.#states?.get(provider);
    if (known !== undefined) return known;
    return this.#seen(this.#context.verifier.check(provider, this.#bearer, (this.#snapshot as Snapshot).providers));
  }

  /** `nowMs` is handed on while everything is synchronous: the clock is read once. */
  #authorize(service: Service | null, nowMs: number): void {
    if (service === null) return this.refuse(unknownService((this.#route as Route).key));
    this.#found = service;
    this.service = service.key;
    this.meter = this.#context.meters.requests("outbound", service.key);
    const names = service.policies.providers;
    if (!this.tcp && names.length > 0 && !this.#tokensKnown(names)) return this.#verify(names);
    this.#decide(service, nowMs);
  }

  #tokensKnown(names: readonly string[]): boolean {
    const { verifier, options } = this.#context;
    this.#bearer = verifier.bearers.read(this.notes.authorization, this.notes.authorizations, options.tokenMaxBytes);
    const { providers } = this.#snapshot as Snapshot;
    for (let i = 0; i < names.length; i++) {
      if (verifier.check(names[i] as string, this.#bearer, providers) === undefined) return false;
    }
    return true;
  }

  /** The slow way: some token of this request is not verified yet. */
  #verify(names: readonly string[]): void {
    const service = this.#found as Service;
    // Who may not call in any case learns nothing, and causes no work, by sending tokens.
    if (!couldAllow(service.view.policies, this.principal as SpiffeId)) return this.#refuseCall("DENIED");
    this.waits();
    const { verifier } = this.#context;
    const { providers } = this.#snapshot as Snapshot;
    Promise.all(names.map((name) => verifier.verify(name, this.#bearer, providers)))
      .then((states) => {
        if (this.isOver) return;
        this.#states = new Map(names.map((name, i) => [name, this.#seen(states[i])]));
        this.#decide(service, this.#context.clock.monotonicMs());
      })
      .catch((thrown: unknown) => this.fault(thrown));
  }

  /** Keys that this side cannot have the callee may have: it decides (the caller refuses nothing that the callee would allow). */
  #seen(state: TokenState | undefined): TokenState {
    return state === undefined || state.is === "unavailable" ? tokenUnknown : state;
  }

  #decide(service: Service, nowMs: number): void {
    const route = this.#route as Route;
    const { policies, defaultPorts } = service;
    this.port = route.port ?? defaultPorts[0] ?? 0;
    let decision = decide(policies, this);
    // Instances may offer different ports while they are replaced; the callee's own decides.
    for (let i = 1; decision.verdict === "deny" && route.port === undefined && i < defaultPorts.length; i++) {
      this.port = defaultPorts[i] as number;
      decision = decide(policies, this);
    }
    this.decidedBy = decision.by;
    this.audit(decision.audits);
    if (decision.verdict === "deny") return this.#refuseCall(decision.code ?? "DENIED");
    const upstream = this.#context.upstreams.of(service);
    this.#upstream = upstream;
    upstream.budget.deposit(nowMs);
    this.#next(nowMs);
  }

  #refuseCall(code: FailureCode): void {
    const { policies } = (this.#found as Service).view;
    const route = this.#route as Route;
    if (!couldAllow(policies, this.principal as SpiffeId)) return this.refuse(unknownService(route.key));
    this.refuse(notAllowed(code, route.key));
  }

  /** Only from here on anything is known of endpoints. */
  #next(nowMs: number): void {
    if (this.isOver) return;
    const endpoint = (this.#upstream as Upstream).pick(this, this.#tried, nowMs);
    if (isRefusal(endpoint)) return this.refuse(endpoint);
    const ticket = endpoint.breaker.enter(nowMs);
    if (ticket === refusedTicket) return this.refuse(breakerOpen(this.service));
    this.#tries++;
    this.#last = endpoint;
    endpoint.open++;
    const attempt = new OutboundAttempt(this, endpoint, ticket);
    // From here on it waits or is sent, so that its place is given back whatever throws.
    this.#waitingFor = attempt;
    const connection = endpoint.hop.ready(nowMs);
    if (connection !== undefined) return this.#dispatch(attempt, connection, nowMs);
    this.waits();
    const refusal = endpoint.hop.wait(this);
    if (refusal !== undefined) this.refuse(refusal);
  }

  // The hop calls one of these once.

  connected(connection: ClientConnection): void {
    const attempt = this.#waitingFor;
    if (attempt === undefined) return;
    try {
      this.#dispatch(attempt, connection, this.#context.clock.monotonicMs());
    } catch (thrown) {
      this.fault(thrown); // Others wait behind it.
    }
  }

  failed(refusal: Refusal): void {
    const attempt = this.#waitingFor;
    this.#waitingFor = undefined;
    if (attempt === undefined) return;
    try {
      this.#notConnected(attempt, refusal);
    } catch (thrown) {
      this.fault(thrown);
    }
  }

  #notConnected(attempt: OutboundAttempt, refusal: Refusal): void {
    attempt.over = true;
    attempt.endpoint.open--;
    const nowMs = this.#context.clock.monotonicMs();
    // Without an identity the endpoint is not to blame.
    if (refusal.code === "NO_IDENTITY") attempt.endpoint.breaker.release(attempt.ticket, nowMs);
    else attempt.endpoint.breaker.learn(attempt.ticket, false, nowMs);
    this.#avoid(attempt.endpoint);
    if (refusal.code === "NO_IDENTITY" || !this.#again({ loss: "unprocessed", because: "connect" }))
      this.refuse(refusal);
  }

  #dispatch(attempt: OutboundAttempt, connection: ClientConnection, nowMs: number): void {
    this.attempt = attempt;
    this.#waitingFor = undefined;
    attempt.endpoint.requests.add();
    if (this.sendOn(connection, attempt, this.#headNow(nowMs))) return;
    // It had room a moment ago and takes nothing now: it is on its way out.
    this.released(attempt, "lost");
    attempt.over = true;
    if (!this.#again({ loss: "unprocessed", because: "refused", resend: true })) this.refuse(notTaken(this.service));
  }

  #headNow(nowMs: number): RequestHead {
    const leftMs = Math.max(1, Math.ceil(this.#deadlineMs - nowMs));
    let head = this.#head;
    if (head === undefined) {
      const { method, bodyLength, upgrade } = this.exchange.head;
      const route = this.#route as Route;
      addLabels(this.fields, this, this.#context.labels);
      if (this.notes.spelling !== "") this.fields.push(spellingField, this.notes.spelling);
      const { authority } = route;
      head = { method, scheme: "https", authority, path: this.#target, fields: this.fields, bodyLength };
      if (upgrade !== undefined) head.upgrade = upgrade;
      this.#head = head;
    }
    shortenGrpcTimeout(this.notes, nowMs - this.startedMs);
    if (this.#deadlineMs === Infinity) return head;
    if (this.#timeoutAt === 0) {
      this.#timeoutAt = this.fields.length + 1;
      this.fields.push(timeoutField, String(leftMs));
    } else {
      this.fields[this.#timeoutAt] = String(leftMs);
    }
    return head;
  }

  // What becomes of attempts.

  protected override lost(attempt: Attempt, loss: Loss): Refusal | undefined {
    const outbound = attempt as OutboundAttempt;
    const { breaker } = outbound.endpoint;
    const nowMs = this.#context.clock.monotonicMs();
    outbound.learned = true;
    // A stream that a living connection refused whole (GOAWAY while it drains) says nothing bad of the endpoint. And one
    // connection that ends is one failure, whatever it carried: else a busy one that breaks would shut out an endpoint that
    // takes the next one at once, as one of several workers does, or a program that was restarted.
    if (loss.kind === "unprocessed" || outbound.endpoint.knows(loss)) breaker.release(outbound.ticket, nowMs);
    else breaker.learn(outbound.ticket, !lossFails(loss.kind), nowMs);
    this.released(attempt, "lost");
    const resend = loss.kind === "unprocessed";
    if (!resend) this.#avoid(outbound.endpoint);
    if (this.#again({ loss: loss.kind, because: loss.kind, resend })) return undefined;
    if (loss.kind === "unprocessed") return notTaken(this.service);
    return loss.kind === "invalid" ? upstreamInvalid(this.service) : upstreamLost(this.method, this.service);
  }

  protected override judged(attempt: Attempt, head: ResponseHead, end: boolean): boolean {
    const outbound = attempt as OutboundAttempt;
    const { breaker } = outbound.endpoint;
    const nowMs = this.#context.clock.monotonicMs();
    const grpc = this.notes.grpc && head.status === 200;
    // The trailers will say how a gRPC call went; a probe has its answer.
    if (grpc && !end && breaker.state === "closed") return false;
    outbound.learned = true;
    const grpcStatus = grpc && end ? fieldOf(head.fields, "grpc-status") : undefined;
    if (!statusFails(head.status) && !grpcStatusFails(grpcStatus)) {
      breaker.learn(outbound.ticket, true, nowMs);
      return false;
    }
    const code = fieldOf(head.fields, "x-hauberk-code");
    if (code === "JWT_KEYS_UNAVAILABLE") {
      // Of the caller's token, not of the endpoint: else a token could open everybody's breaker.
      breaker.release(outbound.ticket, nowMs);
      if (this.maybeProcessed) this.refuse(lostBefore(this.method, this.service, code));
      return this.maybeProcessed;
    }
    if (code !== undefined && callersCodes.has(code)) breaker.declined(outbound.ticket, nowMs);
    else breaker.learn(outbound.ticket, false, nowMs);
    const unprocessed = code !== undefined && unprocessedCodes.has(code);
    this.#avoid(outbound.endpoint);
    const again = this.#again({
      loss: unprocessed ? "unprocessed" : undefined,
      status: head.status,
      because: grpcStatus === undefined ? String(head.status) : `grpc ${grpcStatus}`,
    });
    if (again) {
      this.maybeProcessed ||= !unprocessed;
      this.abandon(attempt, "the request is sent again");
    } else if (unprocessed && this.maybeProcessed) {
      // What this attempt says is true of it alone.
      this.refuse(lostBefore(this.method, this.service, code));
    }
    return again || (unprocessed && this.maybeProcessed);
  }

  protected override concluded(attempt: Attempt, grpcStatus: string | undefined): void {
    const { endpoint, ticket, learned } = attempt as OutboundAttempt;
    if (learned) return;
    (attempt as OutboundAttempt).learned = true;
    endpoint.breaker.learn(ticket, !grpcStatusFails(grpcStatus), this.#context.clock.monotonicMs());
  }

  protected override released(attempt: Attempt, how: "answered" | "lost" | "given up"): void {
    const { endpoint, ticket, learned } = attempt as OutboundAttempt;
    endpoint.open--;
    const failed = (this.headWritten && how === "lost") || (!learned && this.#late);
    if (failed) endpoint.breaker.learn(ticket, false, this.#context.clock.monotonicMs());
    else if (!learned) endpoint.breaker.release(ticket, this.#context.clock.monotonicMs());
    // The connection counts this exchange out when the call that brought its end returns.
    if (endpoint.hop.waiting > 0) queueMicrotask(() => endpoint.hop.freed());
  }

  /** Plans the next attempt where the method, the body, the number of tries, the budget and the deadline allow one. */
  #again(of: { loss?: LossKind | undefined; status?: number; because: string; resend?: boolean }): boolean {
    const { resilience, clock, meters, random } = this.#context;
    const resend = of.resend === true && this.#resends < resendsMax;
    const attempt = resend ? 1 : this.#tries - this.#resends;
    const { loss, status } = of;
    if (resend && resilience.retriesMax === 0) return false;
    if (
      !mayRetry(
        {
          method: this.repeatedAs,
          loss,
          status,
          headWritten: this.headWritten,
          bodyReplayable: this.replayable,
          attempt,
        },
        resilience,
      )
    ) {
      return false;
    }
    const nowMs = clock.monotonicMs();
    if (!(this.#upstream as Upstream).budget.withdraw(nowMs)) {
      meters.retryRefused(this.service);
      return false;
    }
    const waitMs = backoffMs({ attempt: Math.max(1, attempt), draw: random.draw(), baseMs: resilience.backoffMs });
    if (nowMs + waitMs >= this.#deadlineMs) return false;
    if (resend) this.#resends++;
    meters.retried(this.service, of.because);
    this.waits();
    this.#cancelBackoff = clock.after(waitMs, () => {
      this.#cancelBackoff = undefined;
      try {
        this.#next(clock.monotonicMs());
      } catch (thrown) {
        this.fault(thrown);
      }
    });
    return true;
  }

  #avoid(endpoint: Endpoint): void {
    this.#tried = [...this.#tried, endpoint];
  }

  protected override stopWaiting(): void {
    this.#cancelBackoff?.();
    this.#cancelBackoff = undefined;
    const attempt = this.#waitingFor;
    if (attempt === undefined) return;
    this.#waitingFor = undefined;
    attempt.endpoint.hop.leave(this);
    this.released(attempt, "given up");
  }

  // Time.

  protected override requestComplete(): void {
    this.#setDeadline(this.#context.clock.monotonicMs());
  }

  /** The own limit counts from the end of the request, so that an upload or a stream is not cut; the caller's from its start. */
  #setDeadline(nowMs: number): void {
    const { ownLimitMs } = this;
    const { timeoutMs } = this.notes;
    const callersMs = timeoutMs === undefined ? Infinity : this.startedMs + Math.min(timeoutMs, ownLimitMs);
    this.#deadlineMs = Math.min(callersMs, this.answerIsDue ? nowMs + ownLimitMs : Infinity);
    if (this.#deadlineMs !== Infinity) this.#context.alarms.set(this, this.#deadlineMs);
  }

  override ring(): void {
    this.#late = !this.headWritten;
    super.ring();
  }

  protected override get principalText(): string {
    return this.principal?.text ?? "";
  }

  protected override get endpointName(): string {
    const view = this.#last?.view;
    return view === undefined ? "" : `${view.address}:${view.port}`;
  }

  /** Who connected by TCP hears nothing of it. */
  override refuse(refusal: Refusal): void {
    const raw = !this.isOver && this.exchange.connection.protocol === "tcp";
    if (raw) this.#context.tcpRefusals.tell(refusal, this.#route?.key ?? "");
    super.refuse(refusal);
  }
}

const tokenUnknown: TokenState = Object.freeze({ is: "unknown" });

/** The time that it takes says nothing of where the texts differ; their lengths are no secret. */
function sameText(given: string, wanted: string): boolean {
  let different = given.length ^ wanted.length;
  for (let i = 0; i < wanted.length; i++) different |= given.charCodeAt(i % (given.length || 1)) ^ wanted.charCodeAt(i);
  return different === 0;
}

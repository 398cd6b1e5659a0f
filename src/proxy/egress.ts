import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import type { Published } from "../base/published.ts";
import type { Random } from "../base/random.ts";
import type { Fields, RequestHead } from "../http/message.ts";
import { backoffMs } from "../resilience/backoff.ts";
import type { ResilienceLimits } from "../resilience/options.ts";
import { mayRetry, type RetryBudget } from "../resilience/retry.ts";
import type { BodyEvents, Loss, ServerExchange } from "../transport/exchange.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import type { BrowserGuard } from "./browser-guard.ts";
import { Attempt, Carry, type CarryContext } from "./carry.ts";
import { shortenGrpcTimeout, takeRequest, viaOf, type RequestNotes } from "./headers.ts";
import { notOutside, type OutsideHosts, type Reachable } from "./outside-hosts.ts";
import {
  lostBefore,
  noPath,
  noTrace,
  noTunnel,
  secretWrong,
  tooMany,
  tooManyTunnels,
  upstreamInvalid,
  upstreamLost,
} from "./refusals.ts";
import type { Outside } from "./routes.ts";
import { respell } from "./spelling.ts";

/**
 * A request of the workload to a host outside of the mesh that `--egress` lists: straight to it, in HTTP/1.1 or, for a CONNECT,
 * as a tunnel. The list is the policy. Nothing of the mesh goes out, no identity and no label of ours, and nothing that
 * the host answers is taken for a word of the mesh.
 */
export interface EgressContext extends CarryContext {
  readonly random: Random;
  readonly resilience: ResilienceLimits;
  readonly identity: Published<TlsIdentity | undefined>;
  readonly hosts: Pick<OutsideHosts, "of">;
  readonly budget: RetryBudget;
}

export interface EgressTerms {
  /** Whether the workload showed the listener's secret. */
  readonly shown: boolean;
  /** Whether a CONNECT is taken. */
  readonly connects: boolean;
  readonly guard: BrowserGuard | undefined;
}

/** Calls the host; gives who listens to the exchange. */
export function callOutside(
  context: EgressContext,
  asked: { exchange: ServerExchange; outside: Outside },
  terms: EgressTerms,
): BodyEvents {
  const call = new EgressCall(context, asked.exchange, asked.outside);
  call.start(terms);
  return call;
}

/** No service has such a name: it stands for all hosts outside, which are too many to be counted one by one. */
const label = "egress";

class EgressCall extends Carry {
  readonly #context: EgressContext;
  readonly #outside: Outside;
  readonly #tcp: boolean;
  #host: Reachable | undefined = undefined;
  #head: RequestHead | undefined = undefined;
  #deadlineMs = Infinity;
  #cancelBackoff: (() => void) | undefined = undefined;
  #tries = 0;

  constructor(context: EgressContext, exchange: ServerExchange, outside: Outside) {
    super(context, exchange, takeRequest(exchange.head));
    this.#context = context;
    this.#outside = outside;
    this.#tcp = exchange.head.method === "CONNECT";
  }

  start(terms: EgressTerms): void {
    try {
      this.#start(terms);
    } catch (thrown) {
      this.fault(thrown);
    }
  }

  #start({ shown, connects, guard }: EgressTerms): void {
    const { options, openRequests, openTunnels, hosts, meters, budget } = this.#context;
    const { head } = this.exchange;
    if (!shown) return this.refuse(secretWrong);
    if (openRequests.value > options.outboundRequestsMax) return this.refuse(tooMany);
    if (this.tunnels && openTunnels.value > options.tunnelsMax) return this.refuse(tooManyTunnels);
    if (this.#tcp && !connects) return this.refuse(noTunnel);
    if (head.method === "TRACE") return this.refuse(noTrace);
    const foreign = guard?.(head);
    if (foreign !== undefined) return this.refuse(foreign);
    this.service = label;
    this.meter = meters.requests("outbound", label);
    this.decidedBy = "--egress";
    if (!this.#tcp && head.scheme === "https") return this.refuse(notInPlain(this.#outside.authority));
    if (!this.#tcp && !hasPath(head)) return this.refuse(noPath);
    const host = hosts.of(this.#outside);
    if (isRefusal(host)) return this.refuse(host);
    this.#host = host;
    if (this.notes.timeoutMs === 0) return this.ring();
    this.#head = this.#headOf(head);
    this.#setDeadline(this.startedMs);
    budget.deposit(this.startedMs);
    this.#send(host);
  }

  /** The target goes as it came: no policy compares it, and it may be part of what the host checks a signature over. */
  #headOf({ method, path, bodyLength, upgrade }: RequestHead): RequestHead {
    const fields = this.#tcp ? [] : this.#fieldsOut();
    const head = { method, scheme: "http", authority: this.#outside.authority, path, fields, bodyLength };
    return upgrade === undefined ? head : { ...head, upgrade };
  }

  /** Of labels only those that the workload wrote itself: an id that was made here would tell the host that two calls belong together. */
  #fieldsOut(): Fields {
    const { notes } = this;
    const { fields } = notes;
    if (notes.spelling !== "") respell(fields, notes.spelling);
    fields.push("via", viaOf(this.exchange.connection));
    if (notes.requestId !== undefined) fields.push("x-request-id", notes.requestId);
    pushTrace(fields, notes);
    return fields;
  }

  #send(host: Reachable): void {
    if (this.isOver) return;
    this.#tries++;
    const nowMs = this.#context.clock.monotonicMs();
    if (this.notes.grpcTimeoutMs !== undefined) shortenGrpcTimeout(this.notes, nowMs - this.startedMs);
    const attempt = new Attempt(this);
    host.open++;
    if (this.sendOn(this.#tcp ? host.dialer : host.pool, attempt, this.#head as RequestHead)) return;
    attempt.over = true;
    host.open--;
    this.refuse(notReached(this.#outside.authority));
  }

  protected override lost(attempt: Attempt, loss: Loss): Refusal | undefined {
    this.released(attempt);
    const { authority } = this.#outside;
    const forbidden = loss.kind === "unprocessed" ? this.#host?.forbidden : undefined;
    if (forbidden !== undefined && !this.maybeProcessed) return notOutside(authority, forbidden);
    if (forbidden !== undefined) return lostBefore(this.exchange.head.method, authority, "NOT_IN_MESH");
    if (this.#again(loss)) return undefined;
    if (loss.kind === "unprocessed") return notReached(authority);
    if (loss.kind === "invalid") return upstreamInvalid(authority);
    return upstreamLost(this.exchange.head.method, authority);
  }

  /** What the host answers is its answer, a 503 as well: nothing is sent twice because of it. */
  protected override judged(): boolean {
    return false;
  }

  protected override concluded(): void {
    // No breaker learns of it.
  }

  protected override released(_attempt: Attempt): void {
    if (this.#host !== undefined) this.#host.open--;
  }

  #again(loss: Loss): boolean {
    const { resilience, clock, meters, random, budget } = this.#context;
    const { repeatedAs: method, headWritten, replayable: bodyReplayable } = this;
    const of = { method, loss: loss.kind, headWritten, bodyReplayable, attempt: this.#tries };
    if (!mayRetry(of, resilience)) return false;
    const nowMs = clock.monotonicMs();
    if (!budget.withdraw(nowMs)) {
      meters.retryRefused(label);
      return false;
    }
    const waitMs = backoffMs({ attempt: this.#tries, draw: random.draw(), baseMs: resilience.backoffMs });
    if (nowMs + waitMs >= this.#deadlineMs) return false;
    meters.retried(label, loss.kind);
    this.waits();
    const host = this.#host as Reachable;
    // Its place is kept while it waits.
    host.open++;
    const leave = clock.after(waitMs, () => {
      this.#cancelBackoff = undefined;
      host.open--;
      try {
        this.#send(host);
      } catch (thrown) {
        this.fault(thrown);
      }
    });
    this.#cancelBackoff = () => {
      leave();
      host.open--;
    };
    return true;
  }

  protected override stopWaiting(): void {
    this.#cancelBackoff?.();
    this.#cancelBackoff = undefined;
  }

  protected override requestComplete(): void {
    this.#setDeadline(this.#context.clock.monotonicMs());
  }

  #setDeadline(nowMs: number): void {
    const { ownLimitMs } = this;
    const { timeoutMs } = this.notes;
    const callersMs = timeoutMs === undefined ? Infinity : this.startedMs + Math.min(timeoutMs, ownLimitMs);
    this.#deadlineMs = Math.min(callersMs, this.answerIsDue ? nowMs + ownLimitMs : Infinity);
    if (this.#deadlineMs !== Infinity) this.#context.alarms.set(this, this.#deadlineMs);
  }

  protected override get principalText(): string {
    return this.#context.identity.read()?.id.text ?? "";
  }

  /** All hosts are counted as one; whoever asked asked for this one. */
  protected override get called(): string {
    return this.#outside.authority;
  }

  protected override get endpointName(): string {
    return this.#tries === 0 ? "" : (this.#host?.key ?? "");
  }
}

function hasPath({ method, path }: RequestHead): boolean {
  return path.startsWith("/") || (path === "*" && method === "OPTIONS");
}

function pushTrace(fields: Fields, { traceparent, tracestate }: RequestNotes): void {
  if (traceparent === undefined || traceparent === "") return;
  fields.push("traceparent", traceparent);
  if (tracestate !== undefined) fields.push("tracestate", tracestate);
}

function notReached(authority: string): Refusal {
  return refuse(
    "CONNECT_FAILED",
    `Cannot call "${authority}": no connection to it could be made`,
    "Try again, nothing of it was processed; look at the name, and whether this machine reaches it",
  );
}

/** It was to be encrypted from here to the host, and would go out as plain text. */
function notInPlain(authority: string): Refusal {
  return refuse(
    "REQUEST_INVALID",
    `Cannot send the request to "${authority}" by https: this listener would send it as plain text`,
    "Use a client that opens a tunnel with CONNECT for https, as most do",
  );
}

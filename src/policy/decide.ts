import { isOpaque, type Call, type Decision, type Trace } from "./call.ts";
import {
  entryOf,
  identityMisses,
  noAudits,
  type CompiledPolicies,
  type CompiledRule,
  type Entry,
  type Side,
  type View,
} from "./compile.ts";
import { allHold, anyHolds, no, unknown, wordOf, yes, type Check, type Holds } from "./holds.ts";
import { fails, isUnknown, matches, type Outcome } from "./token.ts";

export type { Call, Decision, TokenState, Trace, TraceStep } from "./call.ts";

const defaultDeny: Decision = Object.freeze({
  verdict: "deny",
  code: "DENIED",
  by: "default deny",
  audits: noAudits,
});

/**
 * Any matching DENY, then any matching ALLOW, then no. What cannot be seen is unknown and propagates (Kleene): a DENY
 * that is unknown leaves an ALLOW unknown, and changes nothing where no ALLOW can match.
 *
 * The codes of "deny": DENIED; where the only thing that an ALLOW rule lacks is its token, JWT_MISSING, JWT_INVALID or
 * JWT_KEYS_UNAVAILABLE; and those last two where a DENY matches because its token could not be judged.
 *
 * With a `trace` every rule is met in order and told; without one the same rules are met through the identity's view,
 * and nothing is allocated.
 */
export function decide(policies: CompiledPolicies, call: Call, trace?: Trace): Decision {
  const view = trace === undefined ? policies.viewOf(call.principal) : undefined;
  const decision = judge(policies, { call, view, trace });
  if (policies.audit.length === 0) return decision;
  const audits = auditsOf(policies, { call, view, trace });
  return audits.length === 0 ? decision : Object.freeze({ ...decision, audits });
}

/** How this walk meets the rules: through a view, or one by one with somebody listening. */
interface Walk {
  readonly call: Call;
  readonly view: View | undefined;
  readonly trace: Trace | undefined;
}

function judge(policies: CompiledPolicies, walk: Walk): Decision {
  const { call, view, trace } = walk;
  denials.reset(call);
  if (view === undefined) sweep(policies.deny, denials, trace);
  else meet(view.deny, denials);
  const denied = denials.matched;
  if (denied !== undefined) {
    const { decision } = denied.rule.policy;
    const { code } = denials.matchedOutcome;
    return code === undefined ? decision : Object.freeze({ ...decision, code });
  }
  allowances.reset(call);
  if (view === undefined) sweep(policies.allow, allowances, trace);
  else meet(view.allow, allowances);
  return conclude(denials, allowances);
}

/** No DENY matches for sure. */
function conclude(denials: Tally, allowances: Tally): Decision {
  const allowed = allowances.matched;
  const doubted = allowed === undefined ? allowances.doubted : denials.doubted;
  if (allowed !== undefined && doubted === undefined) return allowed.rule.policy.decision;
  if (doubted !== undefined) {
    return Object.freeze({ verdict: "unknown", code: undefined, by: doubted.rule.policy.name, audits: noAudits });
  }
  const lacking = allowances.lacking;
  if (lacking === undefined) return defaultDeny;
  const { code } = allowances.lackingOutcome;
  return Object.freeze({ verdict: "deny", code, by: lacking.rule.policy.name, audits: noAudits });
}

/** What the rules of one action came to. Which rule is named does not depend on the order in which they are met. */
class Tally {
  call: Call | undefined;
  /** The first rule that matches. */
  matched: Entry | undefined;
  matchedOutcome: Outcome = fails;
  /** The first rule that is unknown. */
  doubted: Entry | undefined;
  /** The rule that lacks only its token, with the outcome of highest rank. */
  lacking: Entry | undefined;
  lackingOutcome: Outcome = fails;

  reset(call: Call): void {
    this.call = call;
    this.matched = undefined;
    this.doubted = undefined;
    this.lacking = undefined;
    this.lackingOutcome = fails;
  }

  add(entry: Entry): Outcome {
    const outcome = evaluate(entry, this.call as Call);
    const { order } = entry.rule;
    if (outcome.holds === yes) {
      if (this.matched === undefined || order < this.matched.rule.order) {
        this.matched = entry;
        this.matchedOutcome = outcome;
      }
    } else if (outcome.holds === unknown) {
      if (this.doubted === undefined || order < this.doubted.rule.order) this.doubted = entry;
    } else if (outcome.rank > 0) {
      const { rank } = this.lackingOutcome;
      const first = outcome.rank === rank && order < (this.lacking?.rule.order ?? 0);
      if (outcome.rank > rank || first) {
        this.lacking = entry;
        this.lackingOutcome = outcome;
      }
    }
    return outcome;
  }
}

/** Kept between calls so that a decision allocates nothing: `decide` is synchronous and never re-entered. */
const denials = new Tally();
const allowances = new Tally();

function visit(entry: Entry, tally: Tally): void {
  // A later rule than the one that matched changes nothing.
  if (tally.matched === undefined || entry.rule.order < tally.matched.rule.order) tally.add(entry);
}

/**
 * Meets the rules of a view that the call's method and path can match. A call without a path (CONNECT), or with a method
 * that is not in upper case, meets all: conditions on it fail to evaluate, which the indexes know nothing of.
 */
function meet(side: Side, tally: Tally): void {
  const { path, method } = tally.call as Call;
  const index = side.byMethod.get(method) ?? (method === method.toUpperCase() ? side.otherMethods : undefined);
  if (index !== undefined && path.startsWith("/")) {
    index.walk(path, visit, tally);
    return;
  }
  for (let i = 0; i < side.entries.length; i++) visit(side.entries[i] as Entry, tally);
}

/** Meets every rule in order, up to the first that matches, and tells of each. */
function sweep(rules: readonly CompiledRule[], tally: Tally, trace: Trace | undefined): void {
  const call = tally.call as Call;
  for (const rule of rules) {
    const entry = entryOf(rule, call.principal);
    const outcome = entry === undefined ? fails : tally.add(entry);
    trace?.step(stepOf(rule, { entry, outcome, call }));
    if (outcome.holds === yes) return;
  }
}

/** The policies in AUDIT mode of which a rule matches, each once. They decide nothing. */
function auditsOf(policies: CompiledPolicies, { call, view, trace }: Walk): readonly string[] {
  const matching = (view?.audit ?? [])
    .filter((entry) => evaluate(entry, call).holds === yes)
    .map((entry) => entry.rule);
  for (const rule of view === undefined ? policies.audit : []) {
    const entry = entryOf(rule, call.principal);
    const outcome = entry === undefined ? fails : evaluate(entry, call);
    trace?.step(stepOf(rule, { entry, outcome, call }));
    if (outcome.holds === yes) matching.push(rule);
  }
  return matching.length === 0 ? noAudits : Object.freeze([...new Set(matching.map((rule) => rule.policy.name))]);
}

/** One rule for one call. What throws fails closed: it matches in a DENY and not in an ALLOW. */
function evaluate(entry: Entry, call: Call): Outcome {
  const { rule } = entry;
  try {
    let holds: Holds = rule.checks === undefined ? yes : anyHolds(rule.checks, call);
    if (holds === no) return fails;
    if (entry.addresses !== undefined) {
      const address = anyHolds(entry.addresses, call);
      if (address === no) return fails;
      if (address < holds) holds = address;
    }
    if (rule.token === undefined) return holds === yes ? matches : isUnknown;
    const outcome = rule.token.judge(call);
    return outcome.holds < holds || holds === yes ? outcome : isUnknown;
  } catch {
    return rule.policy.action === "DENY" ? matches : fails;
  }
}

interface Met {
  readonly entry: Entry | undefined;
  readonly outcome: Outcome;
  readonly call: Call;
}

function stepOf(rule: CompiledRule, met: Met): Parameters<Trace["step"]>[0] {
  const { name, action, mode } = rule.policy;
  return {
    policy: name,
    action,
    mode,
    rule: rule.number,
    holds: wordOf[met.outcome.holds],
    because: because(rule, met),
  };
}

/** The conditions that decided about a rule, with what the call has there. */
function because(rule: CompiledRule, met: Met): string {
  const { entry, call } = met;
  if (entry === undefined) return identityMisses(rule, call.principal);
  try {
    const parts = [alternatives(rule.checks, call), alternatives(entry.addresses, call)].filter((part) => part !== "");
    const blind = met.outcome.holds === yes ? blindIn(rule, call) : "";
    if (blind !== "") return `${blind}: on a TCP connection nobody can judge this, and in a DENY it then counts as met`;
    if (parts.length === 0 && rule.token !== undefined) parts.push(`${rule.token.says}: ${rule.token.shows(call)}`);
    return parts.length === 0 ? "every condition holds" : parts.join("; ");
  } catch {
    return "a condition failed to evaluate";
  }
}

/** The conditions of a rule that holds, of which this call shows nothing. */
function blindIn(rule: CompiledRule, call: Call): string {
  if (!isOpaque(call)) return "";
  const holding = rule.checks?.find((checks) => allHold(checks, call) === yes) ?? [];
  const says = holding.filter((check) => check.blind?.(call) === true).map((check) => check.says);
  return [...says, ...(rule.token === undefined ? [] : [rule.token.says])].join(", ");
}

/** "" where one alternative holds for sure; else what each of them lacks. */
function alternatives(list: readonly (readonly Check<Call>[])[] | undefined, call: Call): string {
  if (list === undefined || anyHolds(list, call) === yes) return "";
  const misses = list.map((checks) => {
    const lowest = allHold(checks, call);
    const check = checks.find((candidate) => candidate.holds(call) === lowest);
    return check === undefined ? "" : `${check.says}: ${check.shows(call)}`;
  });
  return misses.length === 0 ? "the list is empty" : misses.join(", or ");
}

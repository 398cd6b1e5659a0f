/**
 * Kleene's three values as numbers, so that AND is the smaller and OR the larger of two.
 * *Unknown* is what cannot be seen from here; it is not an error.
 */
export type Holds = 0 | 1 | 2;
export const no = 0;
export const unknown = 1;
export const yes = 2;

export const wordOf = ["no", "unknown", "yes"] as const;

export type Action = "ALLOW" | "DENY";

/** What a condition counts that fails to evaluate: errors fail closed, so it matches in a DENY and not in an ALLOW. */
export function failed(action: Action): Holds {
  return action === "DENY" ? yes : no;
}

/** One condition of a rule. */
export interface Check<C> {
  /** The condition as written: `paths "/orders/*"`. */
  readonly says: string;
  holds(call: C): Holds;
  /** What the call has there, for the explanation. */
  shows(call: C): string;
  /** Whether the call has nothing there that could be judged: the condition then counts as failed. Absent: never. */
  blind?(call: C): boolean;
}

/** AND of `checks`. */
export function allHold<C>(checks: readonly Check<C>[], call: C): Holds {
  let all: Holds = yes;
  for (let i = 0; i < checks.length; i++) {
    const one = (checks[i] as Check<C>).holds(call);
    if (one === no) return no;
    if (one < all) all = one;
  }
  return all;
}

/** OR of ANDs. */
export function anyHolds<C>(alternatives: readonly (readonly Check<C>[])[], call: C): Holds {
  let any: Holds = no;
  for (let i = 0; i < alternatives.length; i++) {
    const one = allHold(alternatives[i] as readonly Check<C>[], call);
    if (one === yes) return yes;
    if (one > any) any = one;
  }
  return any;
}

/** `paths "/a", "/b"` */
export function saying(key: string, values: readonly (string | number)[]): string {
  return `${key} ${values.map((value) => JSON.stringify(value)).join(", ")}`;
}

/** How an exchange was lost, as `transport/exchange.ts` says it: a plain word here, because this floor lies below. */
export type LossKind = "unprocessed" | "lost" | "cancelled" | "invalid";

import type { EndpointDescription, ProxyDescription } from "../proxy/description.ts";
import type { BreakerState } from "../resilience/breaker.ts";

interface WorkerDescription {
  readonly worker: number;
  readonly pid: number;
  /** Undefined where it did not answer in time. */
  readonly description: ProxyDescription | undefined;
}

/** One endpoint as all workers see it: `breaker` is the worst of theirs, `breakers` has each one's. */
interface MergedEndpoint extends EndpointDescription {
  readonly breakers: Readonly<Record<string, BreakerState>>;
}

const severity: Readonly<Record<BreakerState, number>> = { closed: 0, probing: 1, open: 2 };

/** What several workers describe, as one: what is open adds up, breakers stay each worker's own. */
export function mergeDescriptions(workers: readonly WorkerDescription[]): object {
  const services = new Map<string, Map<string, MergedEndpoint>>();
  for (const { worker, description } of workers) {
    for (const { service, endpoints } of description?.services ?? []) {
      let merged = services.get(service);
      if (merged === undefined) services.set(service, (merged = new Map()));
      for (const endpoint of endpoints) {
        const key = `${endpoint.instance} ${endpoint.address}`;
        merged.set(key, mergeEndpoint(merged.get(key), endpoint, String(worker)));
      }
    }
  }
  return {
    workers: workers.map(({ worker, pid, description }) => ({ worker, pid, answers: description !== undefined })),
    services: [...services].map(([service, endpoints]) => ({ service, endpoints: [...endpoints.values()] })),
  };
}

function mergeEndpoint(before: MergedEndpoint | undefined, next: EndpointDescription, worker: string): MergedEndpoint {
  if (before === undefined) return { ...next, breakers: { [worker]: next.breaker } };
  return {
    ...before,
    breaker: severity[next.breaker] > severity[before.breaker] ? next.breaker : before.breaker,
    open: before.open + next.open,
    connections: before.connections + next.connections,
    breakers: { ...before.breakers, [worker]: next.breaker },
  };
}

/**
 * A value that is replaced whole, and read by whoever needs it now.
 * A reader takes it once at the start of its work and keeps what it took to the end.
 */
export class Published<T> {
  #value: T;
  readonly #listeners = new Set<(value: T, before: T) => void>();

  constructor(value: T) {
    this.#value = value;
  }

  read(): T {
    return this.#value;
  }

  /**
   * Replaces the value, then tells every listener, in the order in which they subscribed. What one throws keeps no other from
   * hearing of it; the first of it is thrown when all have.
   */
  publish(value: T): void {
    const before = this.#value;
    this.#value = value;
    let failed: { readonly thrown: unknown } | undefined;
    for (const listener of this.#listeners) {
      try {
        listener(value, before);
      } catch (thrown) {
        failed ??= { thrown };
      }
    }
    if (failed !== undefined) throw failed.thrown;
  }

  /** Calls `listener` at each later publication; returns its cancel. */
  subscribe(listener: (value: T, before: T) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }
}

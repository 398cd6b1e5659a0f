/**
 * Values hung up by the text that a path must start with: a radix tree. One walk along the path meets every value whose
 * prefix the path has, so a call does not pay for the rules of other paths.
 */
interface Node<T> {
  /** The text between the parent and this node. */
  label: string;
  values: T[];
  /** By the first character of the child's label. */
  children: Map<number, Node<T>> | undefined;
}

export class PathIndex<T> {
  readonly #root: Node<T> = { label: "", values: [], children: undefined };

  add(prefix: string, value: T): void {
    let node = this.#root;
    let rest = prefix;
    while (rest !== "") {
      node.children ??= new Map();
      const code = rest.charCodeAt(0);
      const child = node.children.get(code);
      if (child === undefined) {
        const leaf: Node<T> = { label: rest, values: [value], children: undefined };
        node.children.set(code, leaf);
        return;
      }
      const shared = sharedLength(child.label, rest);
      node = shared === child.label.length ? child : split(node, child, shared);
      rest = rest.slice(shared);
    }
    node.values.push(value);
  }

  /** Calls `visit(value, argument)` for every value whose prefix `path` starts with, shortest prefix first. */
  walk<A>(path: string, visit: (value: T, argument: A) => void, argument: A): void {
    let node = this.#root;
    let at = 0;
    for (;;) {
      for (let i = 0; i < node.values.length; i++) visit(node.values[i] as T, argument);
      if (node.children === undefined || at >= path.length) return;
      const next = node.children.get(path.charCodeAt(at));
      if (next === undefined || !path.startsWith(next.label, at)) return;
      at += next.label.length;
      node = next;
    }
  }
}

function sharedLength(one: string, other: string): number {
  const most = Math.min(one.length, other.length);
  let length = 0;
  while (length < most && one.charCodeAt(length) === other.charCodeAt(length)) length++;
  return length;
}

/** Puts a node between `parent` and `child` that holds the first `at` characters of the child's label. */
function split<T>(parent: Node<T>, child: Node<T>, at: number): Node<T> {
  const middle: Node<T> = { label: child.label.slice(0, at), values: [], children: new Map() };
  parent.children?.set(middle.label.charCodeAt(0), middle);
  child.label = child.label.slice(at);
  middle.children?.set(child.label.charCodeAt(0), child);
  return middle;
}

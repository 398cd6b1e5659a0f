import { DerError, type DerReader, contextTag } from "./der-reader.ts";

/** What an issuer lets the certificates below it be called (RFC 5280 §4.2.1.10). */
export interface NameConstraints {
  /** Hosts that a URI may have; undefined where the constraint says nothing of URIs. */
  readonly permittedUris: readonly string[] | undefined;
  readonly permittedDns: readonly string[] | undefined;
  readonly excludedUris: readonly string[];
  readonly excludedDns: readonly string[];
}

const dnsTag = contextTag(2, false);
const uriTag = contextTag(6, false);

/** GeneralName of RFC 5280 §4.2.1.6: which of [0] to [8] are constructed. */
const nameTags = new Set([
  contextTag(0),
  contextTag(1, false),
  dnsTag,
  contextTag(3),
  contextTag(4),
  contextTag(5),
  uriTag,
  contextTag(7, false),
  contextTag(8, false),
]);

/** URIs and DNS names of a list of GeneralNames; names of other kinds are passed over (X509-SVID §2 lets them be). */
export function readGeneralNames(names: DerReader): { uris: string[]; dnsNames: string[] } {
  const uris: string[] = [];
  const dnsNames: string[] = [];
  if (names.done) throw new DerError("its list of names is empty");
  while (!names.done) {
    const tag = names.tag;
    if (tag === uriTag) uris.push(visibleText(names.content(uriTag)));
    else if (tag === dnsTag) dnsNames.push(visibleText(names.content(dnsTag)));
    else if (nameTags.has(tag)) names.skip();
    else throw new DerError("a name is of no known kind");
  }
  return { uris, dnsNames };
}

/**
 * Constraints on URIs and DNS names. Constraints on other kinds are refused, since nobody here would enforce them
 * (RFC 5280 §4.2.1.10: process or reject).
 */
export function readNameConstraints(fields: DerReader): NameConstraints {
  if (fields.done) throw new DerError("its name constraints are empty");
  const permitted = fields.tag === contextTag(0) ? readSubtrees(fields.enter(contextTag(0))) : undefined;
  const excluded = fields.tag === contextTag(1) ? readSubtrees(fields.enter(contextTag(1))) : undefined;
  fields.finish("the name constraints");
  return {
    permittedUris: permitted === undefined || permitted.uris.length === 0 ? undefined : permitted.uris,
    permittedDns: permitted === undefined || permitted.dnsNames.length === 0 ? undefined : permitted.dnsNames,
    excludedUris: excluded?.uris ?? [],
    excludedDns: excluded?.dnsNames ?? [],
  };
}

function readSubtrees(subtrees: DerReader): { uris: string[]; dnsNames: string[] } {
  const uris: string[] = [];
  const dnsNames: string[] = [];
  if (subtrees.done) throw new DerError("its name constraints are empty");
  while (!subtrees.done) {
    const subtree = subtrees.enter(0x30);
    const tag = subtree.tag;
    if (tag !== uriTag && tag !== dnsTag) throw new DerError("a name constraint is on neither URIs nor DNS names");
    const text = visibleText(subtree.content(tag)).toLowerCase();
    // minimum is 0 and so never written, maximum must be absent.
    subtree.finish("a name constraint");
    if (text === "" || (tag === dnsTag && text.startsWith("."))) throw new DerError("a name constraint names nothing");
    (tag === uriTag ? uris : dnsNames).push(text);
  }
  return { uris, dnsNames };
}

/** IA5String without blanks and controls: a NUL or a line break in a name has only ever been an attack. */
function visibleText(octets: Buffer): string {
  for (const octet of octets)
    if (octet <= 0x20 || octet >= 0x7f) throw new DerError("a name has a character that is not visible ASCII");
  return octets.toString("latin1");
}

/** The first name that the constraints forbid, or undefined. */
export function forbiddenName(
  names: { readonly uris: readonly string[]; readonly dnsNames: readonly string[] },
  constraints: NameConstraints,
): string | undefined {
  const { permittedUris, permittedDns, excludedUris, excludedDns } = constraints;
  return (
    names.uris.find((uri) => {
      if (permittedUris === undefined && excludedUris.length === 0) return false;
      const host = hostOf(uri);
      if (host === undefined) return true;
      const covers = (constraint: string): boolean => coversHost(constraint, host);
      return permittedUris?.some(covers) === false || excludedUris.some(covers);
    }) ??
    names.dnsNames.find((name) => {
      const covers = (constraint: string): boolean => coversDns(constraint, name.toLowerCase());
      return permittedDns?.some(covers) === false || excludedDns.some(covers);
    })
  );
}

/** The host of a URI with an authority, lower-case; undefined where there is none to compare. */
function hostOf(uri: string): string | undefined {
  const match = /^[A-Za-z][A-Za-z0-9+.-]*:\/\/(?:[^/?#@]*@)?([^/?#@:]+)(?::\d*)?(?:[/?#]|$)/.exec(uri);
  return match?.[1]?.toLowerCase();
}

/** RFC 5280: a URI constraint is one host, or with a leading dot every host below it. */
function coversHost(constraint: string, host: string): boolean {
  return constraint.startsWith(".")
    ? host.length > constraint.length && host.endsWith(constraint)
    : host === constraint;
}

/** RFC 5280: a DNS constraint covers itself and every name below it. */
function coversDns(constraint: string, name: string): boolean {
  return name === constraint || name.endsWith(`.${constraint}`);
}

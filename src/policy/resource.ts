/** The shapes lie in `base`, because `contract` carries them to sidecars from the same floor as this folder. */
export type * from "../base/resource.ts";

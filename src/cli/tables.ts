import type { OptionTable } from "../base/options.ts";

/** Every option table of every room, for names in hauberk.yaml; loaded only by the control plane and `check`. */
export async function optionTables(): Promise<readonly OptionTable[]> {
  const modules: object[] = await Promise.all([
    import("../authority/options.ts"),
    import("../control/options.ts"),
    import("../identity/options.ts"),
    import("../policy/options.ts"),
    import("../proxy/options.ts"),
    import("../registry/options.ts"),
    import("../resilience/options.ts"),
    import("../sidecar/options.ts"),
    import("../storage/options.ts"),
    import("../transport/http2-options.ts"),
    import("../transport/options.ts"),
  ]);
  return modules.flatMap((module) =>
    Object.entries(module)
      .filter(([name]) => name.endsWith("Options"))
      .map(([, table]) => table as OptionTable),
  );
}

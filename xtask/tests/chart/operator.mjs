// Manifests as a JSON list on standard input: checks those of Prometheus' operator with its schemas. Argument: the
// folder of the packages. Prints how many were checked.
//
// The validators let unknown keys pass; the names that the types have are read from their declarations.

import { readdirSync, readFileSync } from "node:fs";

const models = `${process.argv[2]}/node_modules/@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1`;
const kinds = await import(`${models}/index.js`);
// Their keys are data.
const MAPS = ["matchLabels", "labels", "annotations"];

const known = new Set(["apiVersion", "kind", "metadata", "name", "namespace", "matchLabels"]);
for (const file of readdirSync(models).filter((name) => name.endsWith(".d.ts"))) {
  for (const [, name] of readFileSync(`${models}/${file}`, "utf8").matchAll(/^\s*"(\w+)"\??:/gm)) known.add(name);
}

function unknown(value, path) {
  if (Array.isArray(value)) return value.flatMap((item, at) => unknown(item, `${path}[${at}]`));
  if (value === null || typeof value !== "object") return [];
  return Object.entries(value).flatMap(([key, inner]) => {
    const here = `${path}.${key}`;
    return (known.has(key) ? [] : [here]).concat(MAPS.includes(key) ? [] : unknown(inner, here));
  });
}

let count = 0;
for (const manifest of JSON.parse(readFileSync(0, "utf8"))) {
  if (!manifest.apiVersion.startsWith("monitoring.coreos.com/")) continue;
  const strange = unknown(manifest, manifest.kind);
  if (strange.length > 0) throw new Error(`unknown keys: ${strange.join(", ")}`);
  new kinds[manifest.kind](manifest).validate();
  count += 1;
}
console.log(count);

"""Manifests on standard input, as Kubernetes reads them.

json:                        prints them as a JSON list
validate VERSION [FOLDER]:   checks those of Kubernetes itself with its own schemas, strictly; FOLDER: of a release that
                             the installed package has no more. Prints how many were checked.
"""

import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml


def check_old(manifest, folder):
    """Schemas of old releases refer to one file of definitions, in an older dialect."""
    group, _, version = manifest["apiVersion"].rpartition("/")
    name = "-".join(part for part in (manifest["kind"].lower(), group.split(".")[0], version) if part)
    reference = json.loads((folder / f"{name}.json").read_text())["$ref"].partition("#")[2]
    definitions = json.loads((folder / "_definitions.json").read_text())["definitions"]
    schema = {"$ref": f"#{reference}", "definitions": definitions}
    jsonschema.Draft7Validator(schema).validate(manifest)


def main():
    manifests = [manifest for manifest in yaml.safe_load_all(sys.stdin) if manifest]
    if sys.argv[1] == "json":
        json.dump(manifests, sys.stdout)
        return
    version, folder = sys.argv[2], sys.argv[3:]
    ours = [manifest for manifest in manifests if not manifest["apiVersion"].startswith("monitoring.coreos.com/")]
    for manifest in ours:
        try:
            if folder:
                check_old(manifest, pathlib.Path(folder[0]))
            else:
                used = kubernetes_validate.validate(manifest, version, strict=True)
                assert version.startswith(used), f"checked with the schemas of {used}"
        except jsonschema.ValidationError as error:
            place = ".".join(str(part) for part in error.path)
            sys.exit(f"{manifest['kind']} {manifest['metadata']['name']}: {place}: {error.message[:400]}")
    print(len(ours))


main()

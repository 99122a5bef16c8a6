//! Every scenario against the schemas of what reads it. The schemas bite: each has a test with a manifest it refuses.

use serde_json::Value;

use crate::scenarios::{self, Scenario};
use crate::tools::{self, Helm, helm_3, helm_4, validate, validate_operator};

fn is_operators(manifest: &Value) -> bool {
    manifest["apiVersion"].as_str().unwrap().starts_with("monitoring.coreos.com/")
}

#[test]
fn kubernetes_accepts_every_scenario() {
    if !tools::are_there() {
        return;
    }
    for scenario in scenarios::all() {
        let yaml = helm_4().template(&scenario.values, &scenario.kubernetes).unwrap();
        let own = tools::parse(&yaml).iter().filter(|manifest| !is_operators(manifest)).count();
        assert_eq!(validate(&yaml, &scenario.kubernetes), Ok(own), "{}", scenario.name);
    }
}

#[test]
fn prometheus_operator_accepts_every_scenario() {
    if !tools::are_there() {
        return;
    }
    let of = |scenario: &Scenario| helm_4().manifests(&scenario.values, &scenario.kubernetes);
    let manifests: Vec<_> = scenarios::all().iter().flat_map(of).filter(is_operators).collect();
    assert!(manifests.len() >= 10);
    assert_eq!(validate_operator(&manifests), Ok(manifests.len()));
}

#[test]
fn the_defaults_are_valid_in_every_release_since_1_20() {
    if !tools::are_there() {
        return;
    }
    // Those in between have no schemas in either package.
    for minor in [20, 25, 29, 30, 31, 37] {
        let kubernetes = format!("1.{minor}.0");
        let yaml = helm_4().template("{}", &kubernetes).unwrap();
        assert!(validate(&yaml, &kubernetes).unwrap_or_else(|error| panic!("{kubernetes}: {error}")) >= 2);
    }
    let error = helm_4().template("{}", "1.19.0").unwrap_err();
    assert!(error.contains(">=1.20.0-0"), "{error}");
}

#[test]
fn lint_finds_nothing_in_any_scenario() {
    if !tools::are_there() {
        return;
    }
    let check = |helm: &Helm| {
        for scenario in scenarios::all() {
            let said =
                helm.lint(&scenario.values, &scenario.kubernetes).unwrap_or_else(|e| panic!("{}: {e}", scenario.name));
            assert!(said.contains("0 chart(s) failed") && !said.contains("[WARNING]"), "{said}");
        }
    };
    check(&helm_4());
    helm_3().iter().for_each(check);
}

#[test]
fn a_wrong_manifest_is_refused() {
    if !tools::are_there() {
        return;
    }
    let yaml = helm_4().template("{}", "1.37.0").unwrap();
    for kubernetes in ["1.20.0", "1.37.0"] {
        let error = validate(&yaml.replace("hostPID:", "hostPid:"), kubernetes).unwrap_err();
        assert!(error.contains("hostPid"), "{error}");
    }
    let error = validate(&yaml, "1.20.0").unwrap_err();
    assert!(error.contains("appArmorProfile"), "a field of 1.30: {error}");
    for (right, wrong) in [("honorLabels:", "honourLabels:"), ("honorLabels: true", "honorLabels: maybe")] {
        let manifests = tools::parse(&yaml.replace(right, wrong));
        assert!(validate_operator(&manifests).is_err(), "{wrong}");
    }
}

//! What every scenario renders, whole, but for dashboards and rules, which are files of their own (see `files`).
//! `KATA_PULSE_BLESS=1` writes it anew: read the difference before it is committed.

use std::collections::BTreeSet;
use std::fs;

use crate::scenarios;
use crate::tools::{self, Helm, chart, helm_3, helm_4};

const BLESS: &str = "KATA_PULSE_BLESS";
const HEAD: &str = "---\n# Source: kata-pulse/templates/";

fn rendered(helm: &Helm, scenario: &scenarios::Scenario) -> String {
    let all =
        helm.template(&scenario.values, &scenario.kubernetes).unwrap_or_else(|e| panic!("{}: {e}", scenario.name));
    let manifests = all.split(HEAD).skip(1);
    let kept =
        manifests.filter(|text| !text.starts_with("dashboards.yaml") && !text.starts_with("prometheusrule.yaml"));
    kept.map(|text| format!("{HEAD}{text}")).collect()
}

fn check(helm: &Helm) {
    for scenario in scenarios::all() {
        let file = chart().join("tests/golden").join(format!("{}.yaml", scenario.name));
        let golden = fs::read_to_string(&file).unwrap_or_default();
        let fresh = rendered(helm, &scenario);
        assert!(fresh == golden, "{} differs; {BLESS}=1 writes it anew:\n{fresh}", file.display());
    }
}

#[test]
fn every_scenario_renders_as_it_did_with_helm_4() {
    if !tools::are_there() {
        return;
    }
    if std::env::var_os(BLESS).is_some() {
        for scenario in scenarios::all() {
            let file = chart().join("tests/golden").join(format!("{}.yaml", scenario.name));
            fs::write(file, rendered(&helm_4(), &scenario)).unwrap();
        }
    }
    check(&helm_4());
}

#[test]
fn every_scenario_renders_the_same_with_helm_3() {
    if let Some(helm) = helm_3().filter(|_| std::env::var_os(BLESS).is_none()) {
        check(&helm);
    }
}

#[test]
fn every_golden_has_its_scenario() {
    let goldens = fs::read_dir(chart().join("tests/golden")).unwrap();
    let names: BTreeSet<_> = goldens.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let wanted = scenarios::all().into_iter().map(|scenario| format!("{}.yaml", scenario.name));
    assert_eq!(names, wanted.collect());
}

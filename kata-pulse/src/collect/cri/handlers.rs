//! Which of the runtime's handlers are Kata, and which programs they run. Pure.
//!
//! In: `info["config"]` of a verbose `Status`, as containerd 1.x and 2.x give it. Out: [`Handlers`]. The text is the
//! runtime's own, and bounded all the same. CRI-O tells nothing of the kind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::sandbox::{Identity, SandboxId};

const MAX_HANDLERS: usize = 256;
/// The kernel's own bound for a path; names are shorter.
const MAX_TEXT: usize = 4096;
/// Where containerd finds a shim that is named by its type alone: the usual PATH of a service.
const SHIM_FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// One runtime handler, the word in a RuntimeClass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handler {
    /// e.g. `io.containerd.kata-qemu.v2`.
    pub runtime_type: String,
    /// The shim, where it is not found by its type.
    pub runtime_path: Option<PathBuf>,
    /// Kata's configuration file, where the handler names one.
    pub config_path: Option<PathBuf>,
}

/// All handlers of one runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handlers {
    /// What a pod gets that names none; empty where the runtime does not tell.
    pub default_name: String,
    pub by_name: BTreeMap<String, Handler>,
}

impl Handler {
    pub fn is_kata(&self) -> bool {
        let typed = self.runtime_type.starts_with("io.containerd.kata") && self.runtime_type.ends_with(".v2");
        typed || self.path().is_some_and(is_kata_shim)
    }

    /// A type may be the path itself.
    fn path(&self) -> Option<&Path> {
        let as_type = Path::new(&self.runtime_type);
        self.runtime_path.as_deref().or_else(|| as_type.is_absolute().then_some(as_type))
    }

    /// Where its shim may be on the host, as containerd would look for it.
    fn shims(&self) -> Vec<PathBuf> {
        if let Some(path) = self.path() {
            return vec![path.to_owned()];
        }
        let Some(name) = shim_name(&self.runtime_type) else { return Vec::new() };
        SHIM_FOLDERS.iter().map(|folder| Path::new(folder).join(&name)).collect()
    }
}

impl Handlers {
    /// Programs that this runtime's configuration makes Kata shims; each is an absolute path, and may not exist.
    pub fn kata_shims(&self) -> Vec<PathBuf> {
        let mut shims: Vec<PathBuf> =
            self.by_name.values().filter(|one| one.is_kata()).flat_map(Handler::shims).collect();
        shims.sort();
        shims.dedup();
        shims
    }

    /// The list leaves the handler of a pod empty that named none.
    pub(super) fn name_default(&self, names: &mut BTreeMap<SandboxId, Identity>) {
        for identity in names.values_mut().filter(|identity| identity.runtime_handler.is_empty()) {
            identity.runtime_handler.clone_from(&self.default_name);
        }
    }
}

fn is_kata_shim(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("containerd-shim-kata"))
}

/// `containerd-shim-kata-qemu-v2` for `io.containerd.kata-qemu.v2`.
fn shim_name(runtime_type: &str) -> Option<String> {
    let (rest, version) = runtime_type.rsplit_once('.')?;
    let (_, name) = rest.rsplit_once('.')?;
    let plain = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_+".contains(&byte))
    };
    (plain(name) && plain(version)).then(|| format!("containerd-shim-{name}-{version}"))
}

/// `None`: not the JSON of a containerd.
pub fn parse_handlers(json: &[u8]) -> Option<Handlers> {
    #[derive(Deserialize)]
    struct Config {
        containerd: Containerd,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Containerd {
        #[serde(default)]
        default_runtime_name: Value,
        #[serde(default)]
        runtimes: Value,
    }
    let Config { containerd } = serde_json::from_slice(json).ok()?;
    let runtimes = match containerd.runtimes {
        Value::Object(runtimes) => runtimes,
        _ => serde_json::Map::new(),
    };
    let handlers = runtimes.into_iter().filter(|(name, _)| is_bounded(name)).take(MAX_HANDLERS);
    Some(Handlers {
        default_name: text(&containerd.default_runtime_name).unwrap_or_default(),
        by_name: handlers.map(|(name, value)| (name, handler(&value))).collect(),
    })
}

/// One that has an odd value in a place loses that value only.
fn handler(value: &Value) -> Handler {
    let path = |value: &Value| text(value).map(PathBuf::from).filter(|path| path.is_absolute());
    Handler {
        runtime_type: text(&value["runtimeType"]).unwrap_or_default(),
        runtime_path: path(&value["runtimePath"]),
        config_path: path(&value["options"]["ConfigPath"]),
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| is_bounded(text)).map(str::to_owned)
}

fn is_bounded(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONTAINERD_1: &str = r#"{"containerd":{"snapshotter":"overlayfs","defaultRuntimeName":"runc",
        "defaultRuntime":{"runtimeType":"","runtimePath":"","options":{}},"runtimes":{
        "kata":{"runtimeType":"io.containerd.kata.v2","runtimePath":"","PodAnnotations":null,"options":null},
        "kata-qemu":{"runtimeType":"io.containerd.kata-qemu.v2",
            "runtimePath":"/opt/kata/runtime-rs/bin/containerd-shim-kata-v2",
            "options":{"ConfigPath":"/opt/kata/share/defaults/kata-containers/runtimes/qemu/configuration.toml"}},
        "runc":{"runtimeType":"io.containerd.runc.v2","options":{"SystemdCgroup":true}}}},
        "systemdCgroup":false,"statsCollectPeriod":10,"stateDir":"/run/containerd/io.containerd.grpc.v1.cri"}"#;
    const CONTAINERD_2: &str = r#"{"containerd":{"defaultRuntimeName":"vm","runtimes":{
        "vm":{"runtimeType":"io.containerd.runtime.v1.linux","runtimePath":"/usr/bin/containerd-shim-kata-v2",
            "sandboxer":"podsandbox","cgroupWritable":false,"options":{"ConfigPath":7}},
        "path":{"runtimeType":"/usr/local/bin/containerd-shim-kata-clh-v2","sandboxer":"shim"},
        "broken":[1,2]}},"statsCollectPeriod":"1s"}"#;

    fn handlers(json: &str) -> Handlers {
        parse_handlers(json.as_bytes()).unwrap()
    }

    fn kata(handlers: &Handlers) -> Vec<&str> {
        handlers.by_name.iter().filter(|(_, one)| one.is_kata()).map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn containerd_1_names_types_paths_and_configuration() {
        let found = handlers(CONTAINERD_1);
        assert_eq!(found.default_name, "runc");
        assert_eq!(kata(&found), ["kata", "kata-qemu"]);
        let qemu = &found.by_name["kata-qemu"];
        assert!(qemu.config_path.as_ref().unwrap().ends_with("runtimes/qemu/configuration.toml"));
        let shims = found.kata_shims();
        assert_eq!(shims.len(), 7, "six places for the one without a path: {shims:?}");
        assert!(shims.contains(&"/usr/local/bin/containerd-shim-kata-v2".into()));
        assert!(shims.contains(&"/opt/kata/runtime-rs/bin/containerd-shim-kata-v2".into()));
    }

    #[test]
    fn containerd_2_tells_the_same_and_an_odd_value_costs_itself_only() {
        let found = handlers(CONTAINERD_2);
        assert_eq!(kata(&found), ["path", "vm"]);
        assert_eq!(found.by_name["broken"], Handler::default());
        assert_eq!(found.by_name["vm"].config_path, None);
        assert_eq!(
            found.kata_shims(),
            [
                PathBuf::from("/usr/bin/containerd-shim-kata-v2"),
                PathBuf::from("/usr/local/bin/containerd-shim-kata-clh-v2")
            ]
        );
    }

    #[test]
    fn a_pod_that_named_no_handler_has_the_default_one() {
        let id = |text| SandboxId::parse(text).unwrap();
        let named = Identity { runtime_handler: "kata-qemu".into(), ..Identity::default() };
        let mut names = BTreeMap::from([(id("aa"), Identity::default()), (id("bb"), named)]);
        handlers(CONTAINERD_2).name_default(&mut names);
        assert_eq!(names[&id("aa")].runtime_handler, "vm");
        assert_eq!(names[&id("bb")].runtime_handler, "kata-qemu");
    }

    #[test]
    fn types_become_names_as_containerd_makes_them() {
        assert_eq!(shim_name("io.containerd.kata-qemu.v2").as_deref(), Some("containerd-shim-kata-qemu-v2"));
        for odd in ["", "kata", "io.containerd..v2", "io.containerd.kata/../x.v2", "a.b"] {
            assert_eq!(shim_name(odd), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived_and_shims_are_absolute(kind in "\\PC{0,40}", path in "\\PC{0,40}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_handlers(&bytes);
            let json = serde_json::json!({"containerd": {"runtimes": {"x": {"runtimeType": kind, "runtimePath": path}}}});
            let found = parse_handlers(json.to_string().as_bytes()).unwrap();
            prop_assert!(found.kata_shims().iter().all(|shim| shim.is_absolute()));
        }
    }
}

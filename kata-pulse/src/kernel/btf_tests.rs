use proptest::prelude::*;

use super::*;

/// Writes BTF, so that tests need no kernel.
#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    next: u32,
}

impl Writer {
    fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], next: 1 }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(name.bytes());
        self.strings.push(0);
        at
    }

    fn add(&mut self, name: &str, kind: u32, reference: u32, tail: &[[u32; 3]], width: usize) -> u32 {
        let name = self.name(name);
        let info = (kind << 24) | tail.len() as u32;
        for word in [name, info, reference] {
            self.types.extend(word.to_ne_bytes());
        }
        for words in tail {
            for word in &words[..width] {
                self.types.extend(word.to_ne_bytes());
            }
        }
        self.next += 1;
        self.next - 1
    }

    fn structure(&mut self, name: &str, members: &[(&str, u32, u32)]) -> u32 {
        let members: Vec<[u32; 3]> =
            members.iter().map(|&(name, id, bytes)| [self.name(name), id, bytes * 8]).collect();
        self.add(name, KIND_STRUCT, 0, &members, 3)
    }

    fn pointer(&mut self, to: u32) -> u32 {
        self.add("", KIND_PTR, to, &[], 0)
    }

    fn proto(&mut self, returns: u32, parameters: &[u32]) -> u32 {
        let parameters: Vec<[u32; 3]> = parameters.iter().map(|&id| [0, id, 0]).collect();
        self.add("", KIND_FUNC_PROTO, returns, &parameters, 2)
    }

    fn finish(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [24, 0, types, types, strings] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }
}

fn sample() -> Vec<u8> {
    let mut w = Writer::new();
    let qstr = w.structure("qstr", &[("hash", 0, 0), ("len", 0, 4), ("name", 0, 8)]);
    let alias = w.add("qstr_t", KIND_TYPEDEF, qstr, &[], 0);
    let nameless = w.structure("", &[("d_name", alias, 0)]);
    let dentry = w.structure("dentry", &[("d_flags", 0, 0), ("", nameless, 32), ("d_inode", 0, 48)]);
    let inode = w.structure("inode", &[("i_ino", 0, 64)]);
    let (to_dentry, to_inode) = (w.pointer(dentry), w.pointer(inode));
    let proto = w.proto(to_dentry, &[0, to_inode, to_dentry, 0]);
    w.add("vfs_mkdir", KIND_FUNC, proto, &[], 0);
    let trace = w.proto(0, &[0, to_inode, 0]);
    let to_trace = w.pointer(trace);
    w.add("btf_trace_sched_process_exit", KIND_TYPEDEF, to_trace, &[], 0);
    w.finish()
}

const WANTED: &[&str] = &["dentry", "inode", "vfs_mkdir", "btf_trace_sched_process_exit"];

#[test]
fn members_are_found_through_nameless_structs_and_typedefs() {
    let bytes = sample();
    let btf = Btf::parse(&bytes, WANTED).unwrap();
    assert_eq!(btf.offset("dentry", "d_inode"), Some(48));
    assert_eq!(btf.offset("dentry", "d_name.len"), Some(36));
    assert_eq!(btf.offset("dentry", "d_name.name"), Some(40));
    assert_eq!(btf.offset("inode", "i_ino"), Some(64));
}

#[test]
fn what_is_not_there_is_none() {
    let bytes = sample();
    let btf = Btf::parse(&bytes, WANTED).unwrap();
    for (owner, path) in [("dentry", "d_parent"), ("dentry", "d_name.x"), ("dentry", "d_flags.x"), ("task", "x")] {
        assert_eq!(btf.offset(owner, path), None, "{owner}.{path}");
    }
    assert_eq!(btf.function("vfs_rmdir"), None);
    assert_eq!(btf.offset("qstr", "len"), None, "not asked for");
}

#[test]
fn prototypes_name_the_structs_pointed_to() {
    let bytes = sample();
    let btf = Btf::parse(&bytes, WANTED).unwrap();
    let mkdir = btf.function("vfs_mkdir").unwrap();
    assert_eq!(mkdir.points_to, ["", "inode", "dentry", ""]);
    assert!(mkdir.returns_pointer);
    assert_eq!(btf.tracepoint("sched_process_exit").unwrap().points_to, ["inode", ""]);
}

#[test]
fn a_type_that_refers_to_itself_ends() {
    let mut w = Writer::new();
    w.structure("inode", &[("", 1, 0), ("a", 2, 0)]);
    w.add("loop", KIND_TYPEDEF, 2, &[], 0);
    let bytes = w.finish();
    let btf = Btf::parse(&bytes, &["inode"]).unwrap();
    assert_eq!(btf.offset("inode", "x"), None);
    assert_eq!(btf.offset("inode", "a.b"), None);
}

#[test]
fn damage_is_an_error() {
    let bytes = sample();
    assert_eq!(Btf::parse(&[], WANTED).err(), Some(BtfError::Magic));
    assert_eq!(Btf::parse(&bytes[..20], WANTED).err(), Some(BtfError::Truncated));
    assert_eq!(Btf::parse(&bytes[..bytes.len() - 1], WANTED).err(), Some(BtfError::Truncated));
    let mut unknown = Writer::new();
    unknown.add("", 31, 0, &[], 0);
    assert_eq!(Btf::parse(&unknown.finish(), WANTED).err(), Some(BtfError::UnknownKind(31)));
}

fn ask_everything(bytes: &[u8]) {
    if let Ok(btf) = Btf::parse(bytes, WANTED) {
        for owner in WANTED {
            for path in ["i_ino", "d_name.name", "d_name.len", "a.b.c", ""] {
                let _ = btf.offset(owner, path);
            }
            let _ = btf.function(owner);
        }
        let _ = btf.tracepoint("sched_process_exit");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        ask_everything(&bytes);
    }

    #[test]
    fn any_damage_is_survived(at in 0usize..600, value: u8, cut in 0usize..600) {
        let mut bytes = sample();
        let len = bytes.len();
        bytes[at % len] = value;
        ask_everything(&bytes);
        ask_everything(&bytes[..cut % len]);
    }
}

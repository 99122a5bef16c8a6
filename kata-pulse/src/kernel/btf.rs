//! The kernel's type information (BTF) → offsets of fields, prototypes of functions. In: the bytes of
//! /sys/kernel/btf/vmlinux. Out: numbers. Pure; any bytes give an answer or an error, never a panic.
//!
//! Cost: one pass over about 150,000 types, some 10 ms; the bytes and the index (4 bytes per type) are
//! dropped with [`Btf`]. aya parses the same file for itself but lets nobody look up a member.

use std::collections::HashMap;

const MAGIC: u16 = 0xeb9f;
/// As the kernel's own reader limits resolution.
const MAX_DEPTH: u32 = 32;
/// Members read in search of one; task_struct has about 250, nested ones included. Recursion is as deep
/// at most, so this also bounds the stack.
const MAX_MEMBERS: u32 = 2_000;
/// A kernel has about 150,000 types.
const MAX_TYPES: usize = 4_000_000;

const KIND_PTR: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_TYPE_TAG: u32 = 18;

/// Why bytes are not BTF that we understand.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BtfError {
    #[error("not BTF of this machine's byte order")]
    Magic,
    #[error("BTF ends in the middle of a type or string")]
    Truncated,
    #[error("BTF has a kind of type that is not known: {0}")]
    UnknownKind(u32),
    #[error("BTF has more than {MAX_TYPES} types")]
    TooLarge,
}

/// What a function takes and gives, as far as we ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prototype {
    /// For each parameter, the name of the struct it points to, else empty.
    pub points_to: Vec<String>,
    pub returns_pointer: bool,
}

/// An index over BTF bytes.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Byte offset of type `id` in `types`; type 0 is void and has none.
    index: Vec<u32>,
    named: HashMap<&'a [u8], Vec<u32>>,
}

#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    flagged: bool,
    /// Size or type id, by kind.
    reference: u32,
    /// What follows the common part.
    tail: &'a [u8],
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_ne_bytes(bytes.get(at..end)?.try_into().ok()?))
}

fn section(bytes: &[u8], header: u32, at: u32, len: u32) -> Option<&[u8]> {
    let start = (header as usize).checked_add(at as usize)?;
    bytes.get(start..start.checked_add(len as usize)?)
}

/// Bytes after the common 12, by kind and number of members.
fn tail_len(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        2 | 7..=12 | 16 | 18 => 0,
        1 | 14 | 17 => 4,
        3 => 12,
        4 | 5 | 15 | 19 => 12 * members,
        6 | 13 => 8 * members,
        _ => return None,
    })
}

fn type_at(types: &[u8], at: usize) -> Result<Type<'_>, BtfError> {
    let word = |n: usize| u32_at(types, at + 4 * n).ok_or(BtfError::Truncated);
    let info = word(1)?;
    let kind = (info >> 24) & 0x1f;
    let members = (info & 0xffff) as usize;
    let len = tail_len(kind, members).ok_or(BtfError::UnknownKind(kind))?;
    let tail = types.get(at + 12..at + 12 + len).ok_or(BtfError::Truncated)?;
    Ok(Type { name: word(0)?, kind, flagged: info >> 31 == 1, reference: word(2)?, tail })
}

impl<'a> Btf<'a> {
    /// Indexes the types; only those named in `wanted` can be asked for later.
    pub fn parse(bytes: &'a [u8], wanted: &[&str]) -> Result<Self, BtfError> {
        let magic = bytes.get(..2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
        if magic != Some(MAGIC) {
            return Err(BtfError::Magic);
        }
        let word = |at| u32_at(bytes, at).ok_or(BtfError::Truncated);
        let header = word(4)?;
        let types = section(bytes, header, word(8)?, word(12)?).ok_or(BtfError::Truncated)?;
        let strings = section(bytes, header, word(16)?, word(20)?).ok_or(BtfError::Truncated)?;
        let mut btf = Self { types, strings, index: vec![0], named: HashMap::new() };
        btf.fill_index(wanted)?;
        Ok(btf)
    }

    fn fill_index(&mut self, wanted: &[&str]) -> Result<(), BtfError> {
        let wanted: std::collections::HashSet<&[u8]> = wanted.iter().map(|w| w.as_bytes()).collect();
        let longest = wanted.iter().map(|w| w.len()).max().unwrap_or(0);
        self.index.reserve_exact((self.types.len() / 16).min(MAX_TYPES));
        let mut at = 0;
        while at < self.types.len() {
            let found = type_at(self.types, at)?;
            if matches!(found.kind, KIND_STRUCT | KIND_UNION | KIND_TYPEDEF | KIND_FUNC) {
                let name = self.name_up_to(found.name, longest);
                if let Some(name) = name.filter(|name| wanted.contains(name)) {
                    self.named.entry(name).or_default().push(self.index.len() as u32);
                }
            }
            self.index.push(at as u32);
            if self.index.len() > MAX_TYPES {
                return Err(BtfError::TooLarge);
            }
            at += 12 + found.tail.len();
        }
        Ok(())
    }

    /// The string at `offset` if it is at most `longest` bytes.
    fn name_up_to(&self, offset: u32, longest: usize) -> Option<&'a [u8]> {
        let rest = self.strings.get(offset as usize..)?;
        let end = rest.iter().take(longest + 1).position(|&byte| byte == 0)?;
        rest.get(..end)
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.strip_prefix(name.as_bytes()).is_some_and(|after| after.first() == Some(&0))
    }

    fn get(&self, id: u32) -> Option<Type<'a>> {
        if id == 0 {
            return None;
        }
        type_at(self.types, *self.index.get(id as usize)? as usize).ok()
    }

    fn by_name(&self, name: &str, kinds: &[u32]) -> Option<Type<'a>> {
        let ids = self.named.get(name.as_bytes())?;
        ids.iter().filter_map(|&id| self.get(id)).find(|found| kinds.contains(&found.kind))
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, id: u32) -> Option<Type<'a>> {
        let mut found = self.get(id)?;
        for _ in 0..MAX_DEPTH {
            match found.kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    found = self.get(found.reference)?;
                }
                _ => return Some(found),
            }
        }
        None
    }

    /// Byte offset of `path` (`a.b` for member b of the struct that is member a) in `struct name`.
    /// Members of nameless structs and unions count as their owner's.
    pub fn offset(&self, name: &str, path: &str) -> Option<u32> {
        let mut owner = self.by_name(name, &[KIND_STRUCT, KIND_UNION])?;
        let mut bits = 0u32;
        let mut steps = path.split('.').peekable();
        while let Some(step) = steps.next() {
            let (at, member) = self.member(owner, step, &mut { MAX_MEMBERS })?;
            bits = bits.checked_add(at)?;
            if steps.peek().is_some() {
                owner = self.resolve(member)?;
            }
        }
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Bit offset and type of a member. Damaged BTF may nest a struct in itself: `budget` members are read.
    fn member(&self, owner: Type<'a>, name: &str, budget: &mut u32) -> Option<(u32, u32)> {
        if !matches!(owner.kind, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        for member in owner.tail.chunks_exact(12) {
            *budget = budget.checked_sub(1)?;
            let (label, id, raw) = (u32_at(member, 0)?, u32_at(member, 4)?, u32_at(member, 8)?);
            let bits = if owner.flagged { raw & 0x00ff_ffff } else { raw };
            if self.is_named(label, name) {
                return Some((bits, id));
            }
            if self.is_named(label, "") {
                let inner = self.resolve(id).and_then(|inner| self.member(inner, name, budget));
                if let Some((at, found)) = inner {
                    return Some((bits.checked_add(at)?, found));
                }
            }
        }
        None
    }

    /// The prototype of a kernel function.
    pub fn function(&self, name: &str) -> Option<Prototype> {
        self.prototype(self.by_name(name, &[KIND_FUNC])?.reference)
    }

    /// The prototype of a tracepoint's BTF program, without the hidden first parameter.
    pub fn tracepoint(&self, name: &str) -> Option<Prototype> {
        let pointer = self.by_name(&format!("btf_trace_{name}"), &[KIND_TYPEDEF])?;
        let pointer = self.resolve(pointer.reference).filter(|found| found.kind == KIND_PTR)?;
        let mut prototype = self.prototype(pointer.reference)?;
        if !prototype.points_to.is_empty() {
            prototype.points_to.remove(0);
        }
        Some(prototype)
    }

    fn prototype(&self, id: u32) -> Option<Prototype> {
        let found = self.resolve(id).filter(|found| found.kind == KIND_FUNC_PROTO)?;
        let points_to = found
            .tail
            .chunks_exact(8)
            .map(|parameter| u32_at(parameter, 4).and_then(|id| self.pointee(id)).unwrap_or_default());
        let returned = self.resolve(found.reference);
        Some(Prototype {
            points_to: points_to.collect(),
            returns_pointer: returned.is_some_and(|found| found.kind == KIND_PTR),
        })
    }

    /// Name of the struct that this type points to.
    fn pointee(&self, id: u32) -> Option<String> {
        let pointer = self.resolve(id).filter(|found| found.kind == KIND_PTR)?;
        let target = self.resolve(pointer.reference)?;
        let name = self.name_up_to(target.name, 64)?;
        Some(String::from_utf8_lossy(name).into_owned())
    }
}

#[cfg(test)]
#[path = "btf_tests.rs"]
mod tests;

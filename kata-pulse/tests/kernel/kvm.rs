//! Exits of a real virtual machine of a few instructions, each of them known.

use std::collections::BTreeMap;
use std::io;

use kata_pulse::collect::kernel::ProgramGroup;
use kata_pulse::sandbox::HostRole;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::{own_pid, skip, start_ticks, view};

const OUTS: u16 = 5_000;
const WRITES: u16 = 3_000;

/// So many `out`, so many writes to where there is no memory, then `hlt`, in real mode.
fn program() -> Vec<u8> {
    let ([outs_low, outs_high], [writes_low, writes_high]) = (OUTS.to_le_bytes(), WRITES.to_le_bytes());
    let mut code = vec![0xb9, outs_low, outs_high]; // mov cx, OUTS
    code.extend([0xba, 0xf8, 0x03]); // mov dx, 0x3f8
    code.extend([0xee, 0xe2, 0xfd]); // out dx, al; loop back to it
    code.extend([0xb9, writes_low, writes_high]); // mov cx, WRITES
    code.extend([0xa2, 0x00, 0x80, 0xe2, 0xfb]); // mov [0x8000], al; loop back to it
    code.push(0xf4); // hlt
    code
}

#[repr(align(4096))]
struct Page([u8; 4096]);

/// A machine with the program in its only page.
fn machine(page: &'static mut Page) -> Result<(VmFd, VcpuFd), kvm_ioctls::Error> {
    let code = program();
    page.0[..code.len()].copy_from_slice(&code);
    let machine = Kvm::new()?.create_vm()?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        guest_phys_addr: 0,
        memory_size: 4096,
        userspace_addr: page.0.as_ptr() as u64,
        flags: 0,
    };
    #[expect(unsafe_code, reason = "the guest's memory is the host's")]
    // SAFETY: the page is never freed, and nothing else uses it.
    unsafe {
        machine.set_user_memory_region(region)?
    };
    let vcpu = machine.create_vcpu(0)?;
    let mut segments = vcpu.get_sregs()?;
    (segments.cs.base, segments.cs.selector, segments.ds.base) = (0, 0, 0);
    vcpu.set_sregs(&segments)?;
    let mut registers = vcpu.get_regs()?;
    (registers.rip, registers.rflags) = (0, 2);
    vcpu.set_regs(&registers)?;
    Ok((machine, vcpu))
}

/// What the VMM itself saw.
fn run(vcpu: &mut VcpuFd) -> BTreeMap<&'static str, u64> {
    let mut exits = BTreeMap::new();
    loop {
        let (exit, last) = match vcpu.run() {
            Ok(VcpuExit::IoOut(0x3f8, _)) => ("io", false),
            Ok(VcpuExit::MmioWrite(0x8000, _)) => ("mmio", false),
            Ok(VcpuExit::Hlt) => ("hlt", true),
            Ok(other) => panic!("not what the guest does: {other:?}"),
            Err(error) if io::Error::from(error).kind() == io::ErrorKind::Interrupted => ("interrupted", false),
            Err(error) => panic!("{error}"),
        };
        *exits.entry(exit).or_default() += 1;
        if last {
            return exits;
        }
    }
}

#[test]
fn exits_are_counted_by_reason_none_missing() {
    let Some(view) = view(ProgramGroup::Kvm) else { return };
    if !std::path::Path::new("/dev/kvm").exists() {
        return skip("there is no /dev/kvm");
    }
    let (slot, other) = (view.open(), view.open());
    view.watch(slot, own_pid(), start_ticks(own_pid()), HostRole::Vmm).unwrap();
    let (_machine, mut vcpu) = machine(Box::leak(Box::new(Page([0; 4096])))).unwrap();
    let truth = run(&mut vcpu);
    assert_eq!((truth["io"], truth["mmio"], truth["hlt"]), (u64::from(OUTS), u64::from(WRITES), 1));
    let all = view.read_all();
    let seen: BTreeMap<_, _> = all[&slot].kvm_exits.iter().copied().collect();
    println!("KVM exits: the VMM saw {truth:?}, the kernel's programs {seen:?}");
    assert_eq!(seen, truth);
    assert!(all[&other].kvm_exits.is_empty());
    // What the VMM does when it is no longer the sandbox's is nobody's.
    view.forget_process(slot, own_pid());
    let (_machine, mut vcpu) = machine(Box::leak(Box::new(Page([0; 4096])))).unwrap();
    run(&mut vcpu);
    assert_eq!(view.free(slot).kvm_exits.into_iter().collect::<BTreeMap<_, _>>(), truth);
}

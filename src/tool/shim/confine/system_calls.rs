//! Seccomp: system calls that a tool does not need, and that have led out of a sandbox before.
//!
//! What is denied fails with EPERM. `clone3` fails with ENOSYS, because a filter cannot see its
//! flags: programs fall back to `clone`, whose flags it sees.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use crate::tool::process::sandbox::Network;

/// Always denied.
const DENIED: [i64; 54] = [
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // File systems.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    // Namespaces.
    libc::SYS_unshare,
    libc::SYS_setns,
    // The kernel's wide and young interfaces.
    libc::SYS_bpf,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_vhangup,
    libc::SYS_syslog,
    // The kernel itself, and the whole machine.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
];
/// Denied where they exist.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: [i64; 4] = [
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: [i64; 0] = [];
/// Flags of `clone` that make namespaces.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
/// Families of sockets that make a network.
const FAMILIES: [i32; 2] = [libc::AF_INET, libc::AF_INET6];
/// The kind of a socket, without its flags.
const SOCKET_KIND: u64 = 0xf;
/// A second set of numbers for the same calls, of the x32 interface.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;
/// Calls with numbers of their own there: ptrace, kexec_load, process_vm_readv and _writev,
/// move_pages.
#[cfg(target_arch = "x86_64")]
const DENIED_X32: [i64; 5] = [521, 528, 539, 540, 533];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Restricts this process.
///
/// # Errors
/// The kernel refuses.
pub(super) fn restrict(network: Network) -> Result<(), String> {
    for filter in filters(network)? {
        seccompiler::apply_filter(&filter)
            .map_err(|error| format!("the kernel refuses a filter of system calls: {error}"))?;
    }
    Ok(())
}

/// The filters; all of them apply.
///
/// # Errors
/// There are none for this kind of machine.
pub(super) fn filters(network: Network) -> Result<[BpfProgram; 2], String> {
    let build = || {
        let denied = compile(rules(network)?, libc::EPERM)?;
        let unknown = Rules::from([(libc::SYS_clone3, Vec::new())]);
        Ok([denied, compile(unknown, libc::ENOSYS)?])
    };
    build().map_err(|error: BackendError| {
        format!("no filter of system calls can be made for this machine: {error}")
    })
}

fn compile(rules: Rules, errno: i32) -> Result<BpfProgram, BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let errno = SeccompAction::Errno(errno.unsigned_abs());
    let rules = with_x32(rules);
    SeccompFilter::new(rules, SeccompAction::Allow, errno, architecture)?.try_into()
}

fn rules(network: Network) -> Result<Rules, BackendError> {
    let mut rules: Rules = DENIED
        .into_iter()
        .chain(DENIED_HERE)
        .map(|call| (call, Vec::new()))
        .collect();
    let namespaces: Result<Vec<_>, _> = NAMESPACES
        .into_iter()
        .map(|flag| clone_with(bits(flag)))
        .collect();
    rules.insert(libc::SYS_clone, namespaces?);
    // Limits of others: the daemon's too.
    let others = vec![condition(0, SeccompCmpOp::Ne, 0)?];
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(others)?]);
    rules.insert(libc::SYS_socket, sockets(network)?);
    Ok(rules)
}

fn clone_with(flag: u64) -> Result<SeccompRule, BackendError> {
    let set = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(flag),
        flag,
    )?;
    SeccompRule::new(vec![set])
}

/// Which sockets are denied; no rule at all denies every one. Unix sockets are never made: the
/// daemon's own is one of them. A pair of sockets is another call.
fn sockets(network: Network) -> Result<Vec<SeccompRule>, BackendError> {
    match network {
        Network::Closed => Ok(Vec::new()),
        Network::Open => {
            let other: Result<Vec<_>, _> = FAMILIES
                .into_iter()
                .map(|family| condition(0, SeccompCmpOp::Ne, bits(family)))
                .collect();
            let raw = condition(1, SeccompCmpOp::MaskedEq(SOCKET_KIND), bits(libc::SOCK_RAW))?;
            Ok(vec![
                SeccompRule::new(other?)?,
                SeccompRule::new(vec![raw])?,
            ])
        }
    }
}

fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn bits(flag: i32) -> u64 {
    u64::from(flag.cast_unsigned())
}

/// The same rules for the same calls by their other numbers.
#[cfg(target_arch = "x86_64")]
fn with_x32(mut rules: Rules) -> Rules {
    let others: Vec<_> = rules
        .iter()
        .map(|(call, rules)| (call | X32, rules.clone()))
        .chain(DENIED_X32.map(|call| (call | X32, Vec::new())))
        .collect();
    rules.extend(others);
    rules
}

#[cfg(not(target_arch = "x86_64"))]
fn with_x32(rules: Rules) -> Rules {
    rules
}

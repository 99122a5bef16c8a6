//! Packets that queueing disciplines of the pod's interfaces dropped: no file shows them.
//!
//! In: a network namespace. Out: the drops of each interface's root and ingress disciplines; a root has those of its
//! children. Entering the namespace needs CAP_SYS_ADMIN and changes the thread for good, so [`read`] is given one of
//! its own that ends. Cost: a thread, a socket, one dump.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcStats2};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The kernel answers from memory.
const DEADLINE: Duration = Duration::from_millis(500);
const MAX_ANSWERS: usize = 64;
/// The kernel's own largest message.
const ANSWER_BYTES: usize = 32 * 1024;

/// Interface and drops. Only on a thread that does nothing else afterwards.
pub(super) fn read(namespace: &OwnedFd) -> Option<Vec<(String, u64)>> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
    let flags = SocketFlags::CLOEXEC;
    // Of this family, the protocol that is not named is that of routes.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None).ok()?;
    set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE)).ok()?;
    rustix::net::send(&socket, &request(), SendFlags::empty()).ok()?;
    let mut disciplines = Vec::new();
    let mut answer = vec![0; ANSWER_BYTES];
    for _ in 0..MAX_ANSWERS {
        let (length, _) = rustix::net::recv(&socket, answer.as_mut_slice(), RecvFlags::empty()).ok()?;
        if parse(&answer[..length], &mut disciplines)? {
            return Some(by_name(&socket, &disciplines));
        }
    }
    None
}

fn request() -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = 1;
    let payload = NetlinkPayload::from(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Adds interface numbers and drops; whether that was the last of them. `None`: refused, or not understood.
fn parse(mut bytes: &[u8], found: &mut Vec<(u32, u64)>) -> Option<bool> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).ok()?;
        let length = usize::try_from(message.header.length).ok()?.next_multiple_of(4).max(4);
        match message.payload {
            NetlinkPayload::Done(_) => return Some(true),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewQueueDiscipline(discipline)) => {
                found.extend(drops(&discipline));
            }
            NetlinkPayload::Error(_) | NetlinkPayload::Overrun(_) => return None,
            _ => {}
        }
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Some(false)
}

fn drops(discipline: &TcMessage) -> Option<(u32, u64)> {
    let is_counted = [TcHandle::ROOT, TcHandle::INGRESS].contains(&discipline.header.parent);
    let index = u32::try_from(discipline.header.index).ok().filter(|_| is_counted)?;
    discipline.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Stats2(statistics) => statistics.iter().find_map(|statistic| match statistic {
            TcStats2::Queue(queue) => Some((index, u64::from(queue.drops))),
            _ => None,
        }),
        _ => None,
    })
}

fn by_name(socket: &OwnedFd, disciplines: &[(u32, u64)]) -> Vec<(String, u64)> {
    let mut sums: Vec<(String, u64)> = Vec::new();
    for &(index, drops) in disciplines {
        let Ok(name) = netdevice::index_to_name(socket, index) else { continue };
        match sums.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += drops,
            None => sums.push((name, drops)),
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_asked_is_a_dump() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&request()).unwrap();
        assert_eq!(message.header.flags, NLM_F_REQUEST | NLM_F_DUMP);
        let asked = message.payload;
        assert!(matches!(asked, NetlinkPayload::InnerMessage(RouteNetlinkMessage::GetQueueDiscipline(_))), "{asked:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), length in any::<u16>()) {
            let mut found = Vec::new();
            let _ = parse(&bytes, &mut found);
            // With a header that fits.
            let head = [&u32::from(length).to_ne_bytes()[..], &36_u16.to_ne_bytes()].concat();
            let _ = parse(&[&head, &bytes[..]].concat(), &mut found);
        }
    }
}

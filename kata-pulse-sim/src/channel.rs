//! What the simulator says to the processes it made, and they to it: one JSON message each way over a pair of packet
//! sockets, the far end being the process's standard input. A message may carry a descriptor. The near end's closing
//! is the process's end, so that nothing outlives the simulator however that ends.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::{Serialize, de::DeserializeOwned};

const MESSAGE_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Our end, and what becomes the standard input of the process.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours), theirs))
    }

    /// This process's standard input, if the simulator speaks there.
    pub(crate) fn inherited() -> Option<Self> {
        let input = io::stdin().as_fd().try_clone_to_owned().ok()?;
        (rustix::net::sockopt::socket_type(&input).ok()? == SocketType::SEQPACKET).then_some(Self(input))
    }

    pub(crate) fn send(&self, message: &impl Serialize, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.map(|descriptor| [descriptor]);
        if let Some(descriptors) = &descriptors {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// `None`: the other end is closed.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut text = vec![0; MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut control, flags)?.bytes;
        if got == 0 {
            return Ok(None);
        }
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Ok(Some((serde_json::from_slice(&text[..got])?, descriptor)))
    }

    /// Sends a request and waits for its answer; one at a time.
    pub(crate) fn ask<T: DeserializeOwned>(
        &self,
        message: &impl Serialize,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<T> {
        self.send(message, descriptor)?;
        self.expect()
    }

    pub(crate) fn expect<T: DeserializeOwned>(&self) -> io::Result<T> {
        let answer = self.receive()?;
        answer.map(|(answer, _)| answer).ok_or_else(|| io::Error::other("the process ended without an answer"))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_carries_a_descriptor_and_closing_is_the_end() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        let theirs = Channel(theirs);
        ours.send(&"hello", Some(std::io::stdin().as_fd())).expect("sent");
        let (word, descriptor) = theirs.receive::<String>().expect("received").expect("a message");
        assert_eq!((word.as_str(), descriptor.is_some()), ("hello", true));
        drop(ours);
        assert!(theirs.receive::<String>().expect("received").is_none());
    }
}

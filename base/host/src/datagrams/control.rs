//! Addresses and control messages as the kernel writes them: `struct sockaddr_in`, `sockaddr_in6` and
//! `cmsghdr` as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::Local;

/// Room for an address of either family: `sockaddr_in6` is the longer one.
const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();

/// The address of another end.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Name([u8; NAME_BYTES]);

impl Name {
    pub(super) const EMPTY: Self = Self([0; NAME_BYTES]);
    pub(super) const BYTES: usize = NAME_BYTES;

    /// The address, and how many of the bytes it takes.
    pub(super) fn of(address: SocketAddr) -> (Self, usize) {
        let mut bytes = [0; NAME_BYTES];
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let (family, length) = match address {
            SocketAddr::V4(address) => {
                bytes[4..8].copy_from_slice(&address.ip().octets());
                (libc::AF_INET, size_of::<libc::sockaddr_in>())
            }
            SocketAddr::V6(address) => {
                // As the standard library hands it on: without a change of byte order.
                bytes[4..8].copy_from_slice(&address.flowinfo().to_ne_bytes());
                bytes[8..24].copy_from_slice(&address.ip().octets());
                bytes[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
                (libc::AF_INET6, NAME_BYTES)
            }
        };
        bytes[..2].copy_from_slice(&(family as libc::sa_family_t).to_ne_bytes());
        (Self(bytes), length)
    }

    /// `None` for what is no IP address.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let port = u16::from_be_bytes(self.part(2));
        match libc::c_int::from(libc::sa_family_t::from_ne_bytes(self.part(0))) {
            libc::AF_INET => Some(SocketAddrV4::new(Ipv4Addr::from(self.part::<4>(4)), port).into()),
            libc::AF_INET6 => {
                let [flow, scope] = [4, 24].map(|at| u32::from_ne_bytes(self.part(at)));
                Some(SocketAddrV6::new(Ipv6Addr::from(self.part::<16>(8)), port, flow, scope).into())
            }
            _ => None,
        }
    }

    fn part<const LENGTH: usize>(&self, at: usize) -> [u8; LENGTH] {
        std::array::from_fn(|index| self.0[at + index])
    }
}

/// `struct cmsghdr`: a length of the word's size, level and type. What follows begins at a full word.
const WORD: usize = size_of::<usize>();
const HEADER: usize = (WORD + 8).next_multiple_of(WORD);

const fn space(length: usize) -> usize {
    HEADER + length.next_multiple_of(WORD)
}

/// `struct in_pktinfo` and `in6_pktinfo`.
const V4_INFO: usize = 12;
const V6_INFO: usize = 20;

/// Room for the longer of both beside the length of a train.
const CONTROL_BYTES: usize = space(V6_INFO) + space(size_of::<libc::c_int>());

/// Control messages of one datagram.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Control([u8; CONTROL_BYTES]);

/// What the kernel says of a datagram that came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) to: Option<Local>,
    pub(super) segment: Option<u16>,
}

impl Control {
    pub(super) const EMPTY: Self = Self([0; CONTROL_BYTES]);
    pub(super) const BYTES: usize = CONTROL_BYTES;
    /// What the length of a train takes of them: the last ones.
    pub(super) const SEGMENT_BYTES: usize = space(size_of::<u16>());

    /// To be sent from this address and cut into datagrams of this length; and how many of the bytes
    /// that takes.
    pub(super) fn of(from: Option<Local>, segment: Option<u16>) -> (Self, usize) {
        let (mut control, mut length) = (Self::EMPTY, 0);
        match from.map(|from| (from.address, from.interface)) {
            Some((IpAddr::V4(address), _)) => {
                // Interface, source, destination (which is not looked at). The route chooses the
                // interface: answers need not leave by the one that questions came in at.
                let mut info = [0; V4_INFO];
                info[4..8].copy_from_slice(&address.octets());
                control.push(&mut length, libc::SOL_IP, libc::IP_PKTINFO, &info);
            }
            Some((IpAddr::V6(address), interface)) => {
                let mut info = [0; V6_INFO];
                info[..16].copy_from_slice(&address.octets());
                // The same address may be there at each of them.
                let interface = if address.is_unicast_link_local() { interface } else { 0 };
                info[16..].copy_from_slice(&interface.to_ne_bytes());
                control.push(&mut length, libc::SOL_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if let Some(segment) = segment {
            control.push(&mut length, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        (control, length)
    }

    fn push(&mut self, length: &mut usize, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        let message = &mut self.0[*length..*length + space(data.len())];
        message[..WORD].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        message[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        message[WORD + 4..WORD + 8].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER..HEADER + data.len()].copy_from_slice(data);
        *length += space(data.len());
    }

    /// What the first `length` bytes say.
    pub(super) fn read(&self, length: usize) -> Received {
        let mut received = Received::default();
        let mut rest = self.0.get(..length).unwrap_or_default();
        while let Some((header, _)) = rest.split_at_checked(HEADER) {
            let own = usize::from_ne_bytes(bytes_at(header, 0).unwrap_or_default());
            let Some(data) = rest.get(HEADER..own) else {
                break;
            };
            let [level, kind] =
                [WORD, WORD + 4].map(|at| libc::c_int::from_ne_bytes(bytes_at(header, at).unwrap_or_default()));
            match (level, kind) {
                (libc::SOL_IP, libc::IP_PKTINFO) => received.to = local(data, 0, bytes_at::<4>(data, 4)),
                (libc::SOL_IPV6, libc::IPV6_PKTINFO) => received.to = local(data, 16, bytes_at::<16>(data, 0)),
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let segment = bytes_at(data, 0).map(libc::c_int::from_ne_bytes);
                    received.segment = segment.and_then(|segment| u16::try_from(segment).ok()).filter(|one| *one > 0);
                }
                _ => {}
            }
            rest = rest.get(own.next_multiple_of(WORD)..).unwrap_or_default();
        }
        received
    }
}

fn local<const LENGTH: usize>(data: &[u8], interface_at: usize, address: Option<[u8; LENGTH]>) -> Option<Local>
where
    IpAddr: From<[u8; LENGTH]>,
{
    let interface = u32::from_ne_bytes(bytes_at(data, interface_at)?);
    Some(Local { address: address?.into(), interface })
}

fn bytes_at<const LENGTH: usize>(bytes: &[u8], at: usize) -> Option<[u8; LENGTH]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_was_written() {
        for text in ["192.0.2.1:5353", "[2001:db8::7]:65535", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            let (name, length) = Name::of(address);
            assert_eq!((name.address(), length), (Some(address), if address.is_ipv4() { 16 } else { 28 }));
        }
        assert_eq!(Name::EMPTY.address(), None);
    }

    #[test]
    fn control_messages_are_read_as_they_were_written() {
        for (address, interface) in [("192.0.2.1", 0), ("2001:db8::1", 0), ("fe80::1", 7)] {
            let from = Some(Local { address: address.parse().unwrap(), interface });
            let (control, length) = Control::of(from, Some(1200));
            assert_eq!(control.read(length).to, from);
        }
        let there = Local { address: "2001:db8::1".parse().unwrap(), interface: 7 };
        let (control, length) = Control::of(Some(there), None);
        assert_eq!(control.read(length).to, Some(Local { interface: 0, ..there }));
        assert_eq!(Control::of(None, None).1, 0);
    }

    #[test]
    fn what_is_cut_short_says_nothing() {
        let from = Some(Local { address: "2001:db8::1".parse().unwrap(), interface: 0 });
        let (control, length) = Control::of(from, Some(9));
        for short in 0..length {
            // It must not panic, whatever is left.
            let received = control.read(short);
            assert_eq!(received.to.is_some(), short >= HEADER + V6_INFO, "{short}");
        }
        assert_eq!(Control([255; CONTROL_BYTES]).read(CONTROL_BYTES), Received::default());
        assert_eq!(Control([0; CONTROL_BYTES]).read(CONTROL_BYTES), Received::default());
        assert_eq!(control.read(usize::MAX), Received::default());
    }
}

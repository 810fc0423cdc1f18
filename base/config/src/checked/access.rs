//! Who may come.

use std::net::IpAddr;

use ipnet::IpNet;

/// `allow` and `deny`: the most specific prefix decides, a tie goes to deny.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    pub allow: Vec<IpNet>,
    pub deny: Vec<IpNet>,
}

impl Access {
    /// It says nothing about anybody.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether an address may pass. One in no list passes unless there is an `allow`. A unix socket
    /// has no address and passes.
    #[must_use]
    pub fn permits(&self, address: Option<IpAddr>) -> bool {
        let Some(address) = address else { return true };
        if self.is_open() {
            return true;
        }
        let address = address.to_canonical();
        let longest =
            |list: &[IpNet]| list.iter().filter(|network| network.contains(&address)).map(IpNet::prefix_len).max();
        match (longest(&self.allow), longest(&self.deny)) {
            (Some(allowed), Some(denied)) => allowed > denied,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => self.allow.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_network_decides() {
        let access = Access {
            allow: vec!["10.1.0.0/16".parse().unwrap()],
            deny: vec!["10.0.0.0/8".parse().unwrap(), "10.1.2.0/24".parse().unwrap()],
        };
        let permits = |text: &str| access.permits(text.parse().ok());
        assert!(permits("10.1.1.1"));
        assert!(!permits("10.1.2.1"));
        assert!(!permits("10.2.0.1"));
        assert!(!permits("192.0.2.1"));
        assert!(permits("::ffff:10.1.1.1"));
        let only_deny = Access { allow: vec![], deny: vec!["10.0.0.0/8".parse().unwrap()] };
        assert!(only_deny.permits("192.0.2.1".parse().ok()));
        assert!(access.permits(None));
    }
}

//! Which IP addresses may be connected to on a user's behalf.
//!
//! Threat model: a name or address chosen by an attacker who wants to reach the
//! metadata service, this machine, private networks, or any of them through a
//! translation (IPv4-mapped, NAT64, 6to4, Teredo).
//!
//! Default deny: only globally routable unicast addresses on ports 80 and 443,
//! and what the operator allows by network, there on any port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Ports that web servers have by default.
const PORTS: [u16; 2] = [80, 443];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// IANA IPv4 Special-Purpose Address Registry (RFC 6890) where "globally reachable" is false, and multicast.
const IPV4: [(Ipv4Net, &str); 15] = [
    (v4(0, 0, 0, 0, 8), "this network"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "shared between carriers"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "protocol assignments"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 88, 99, 0, 24), "6to4 relay"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
];

/// Global unicast as assigned so far (RFC 4291, section 2.4, and the IANA address space registry).
const IPV6_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 3);

/// IANA IPv6 Special-Purpose Address Registry, inside global unicast.
const IPV6: [(Ipv6Net, &str); 4] = [
    // Teredo, benchmarking, ORCHID.
    (v6(0x2001, 0, 0, 23), "protocol assignments"),
    (v6(0x2001, 0xdb8, 0, 32), "documentation"),
    (v6(0x2002, 0, 0, 16), "6to4"),
    (v6(0x3fff, 0, 0, 20), "documentation"),
];

/// An address or port that may not be fetched from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefused {
    /// Not globally routable unicast.
    #[error("address {0} is not public ({1})")]
    NotPublic(IpAddr, &'static str),
    /// Not a web server's usual port.
    #[error("port {0} is not allowed; images are fetched from ports 80 and 443")]
    Port(u16),
}

/// The rule, and the networks that the operator allows beyond it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    networks: Vec<IpNet>,
    /// One port more, which the operator named.
    port: Option<u16>,
}

impl AddressPolicy {
    /// Public addresses on ports 80 and 443, and these networks on any port.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self { networks, port: None }
    }

    /// The same rule, and public addresses on this port too.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self { networks: self.networks.clone(), port: Some(port) }
    }

    fn takes(&self, port: u16) -> bool {
        PORTS.contains(&port) || self.port == Some(port)
    }

    /// Whether it lies in one of the networks that the operator allows.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whether this address may be connected to on this port.
    ///
    /// # Errors
    /// [`AddressRefused`] where it may not.
    pub fn check(&self, address: IpAddr, port: u16) -> Result<(), AddressRefused> {
        if self.is_own(address) {
            return Ok(());
        }
        if let Some(what) = not_public(address) {
            return Err(AddressRefused::NotPublic(address, what));
        }
        if self.takes(port) { Ok(()) } else { Err(AddressRefused::Port(port)) }
    }

    /// Whether a name may have an address that may be connected to on this port.
    ///
    /// # Errors
    /// [`AddressRefused::Port`] where no address of any name can.
    pub fn check_name_port(&self, port: u16) -> Result<(), AddressRefused> {
        if self.takes(port) || !self.networks.is_empty() { Ok(()) } else { Err(AddressRefused::Port(port)) }
    }
}

fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => IPV4.iter().find(|(network, _)| network.contains(&v4)).map(|(_, what)| *what),
        IpAddr::V6(v6) if !IPV6_UNICAST.contains(&v6) => Some("outside global unicast"),
        IpAddr::V6(v6) => IPV6.iter().find(|(network, _)| network.contains(&v6)).map(|(_, what)| *what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_global_unicast_is_public() {
        let policy = AddressPolicy::default();
        let refused = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::8.8.8.8",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "2002:808:808::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        for text in refused {
            assert!(
                matches!(policy.check(text.parse().unwrap(), 80), Err(AddressRefused::NotPublic(..))),
                "{text}"
            );
        }
        let public = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
            "3ffe::1",
        ];
        for text in public {
            let address = text.parse().unwrap();
            assert_eq!((policy.check(address, 80), policy.check(address, 443)), (Ok(()), Ok(())), "{text}");
            assert_eq!(policy.check(address, 8080), Err(AddressRefused::Port(8080)), "{text}");
            assert_eq!(policy.check(address, 0), Err(AddressRefused::Port(0)), "{text}");
        }
    }

    #[test]
    fn allowed_networks_are_allowed_on_any_port_and_nothing_else_is() {
        let policy = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap(), "fd00:1::/32".parse().unwrap()]);
        for text in ["127.0.0.1", "127.255.0.9", "fd00:1::9"] {
            assert_eq!(policy.check(text.parse().unwrap(), 8080), Ok(()), "{text}");
        }
        for text in ["::ffff:127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "fd00:ec2::254"] {
            assert!(policy.check(text.parse().unwrap(), 80).is_err(), "{text}");
        }
        let glance = AddressPolicy::default().with_port(9292);
        let (public, private) = ("1.1.1.1".parse().unwrap(), "10.0.0.1".parse().unwrap());
        assert_eq!((glance.check(public, 9292), glance.check_name_port(9292)), (Ok(()), Ok(())));
        assert_eq!(glance.check(public, 9293), Err(AddressRefused::Port(9293)));
        assert!(glance.check(private, 9292).is_err());
        assert_eq!(policy.check_name_port(8080), Ok(()));
        assert_eq!(AddressPolicy::default().check_name_port(8080), Err(AddressRefused::Port(8080)));
    }
}

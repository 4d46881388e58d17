//! The proxies whose word is taken.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use memoric_config::{
    Invalid,
    schema::{self, TrustedHeader},
};

/// Proxies in front of the gateway, and how they say where a request comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedProxies {
    networks: Vec<IpNet>,
    /// The header by which they say it.
    pub(crate) header: TrustedHeader,
}

impl TrustedProxies {
    /// Whether there is a proxy of ours at `address`.
    pub(crate) fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

impl TryFrom<&schema::Gateway> for TrustedProxies {
    type Error = Invalid;

    fn try_from(gateway: &schema::Gateway) -> Result<Self, Invalid> {
        let network = |(place, text): (usize, &String)| {
            let field = || format!("gateway.trusted_proxies[{place}]");
            network(text).map_err(|reason| Invalid::new(field(), reason))
        };
        let networks = gateway.trusted_proxies.iter().enumerate().map(network);
        Ok(Self { networks: networks.collect::<Result<_, _>>()?, header: gateway.trusted_header })
    }
}

/// A network, or the one address in it.
fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().or_else(|_| address()).map_err(|_| {
        "must be an address or a network, such as 10.0.0.1, 10.0.0.0/8 or 2001:db8::/32".to_owned()
    })?;
    if network.prefix_len() == 0 {
        return Err("would let every client say where it comes from".to_owned());
    }
    let whole = network.trunc();
    if whole != network {
        return Err(format!("has bits behind its prefix; the network is {whole}"));
    }
    Ok(canonical(whole))
}

/// A network of IPv4 addresses dressed as IPv6 is the network of IPv4 addresses: whoever connects
/// from there is compared undressed.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(dressed) = network else { return network };
    let plain = dressed.addr().to_ipv4_mapped().zip(dressed.prefix_len().checked_sub(MAPPED));
    plain
        .and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok())
        .map_or(network, IpNet::V4)
}

/// The bits that an IPv4 address is dressed in.
const MAPPED: u8 = (Ipv6Addr::BITS - u32::BITS) as u8;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Proxies at `networks` that say it by `header`.
    pub(crate) fn proxies(header: TrustedHeader, networks: &[&str]) -> TrustedProxies {
        parse(header, networks).unwrap()
    }

    fn parse(header: TrustedHeader, networks: &[&str]) -> Result<TrustedProxies, Invalid> {
        let trusted_proxies = networks.iter().map(|network| (*network).to_owned()).collect();
        let gateway =
            schema::Gateway { trusted_proxies, trusted_header: header, ..Default::default() };
        TrustedProxies::try_from(&gateway)
    }

    #[test]
    fn a_proxy_is_known_by_its_address_in_whatever_dress() {
        let proxies = proxies(
            TrustedHeader::XForwardedFor,
            &["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::ffff:198.51.100.0/120"],
        );
        let trust = |address: &str| proxies.trust(address.parse().unwrap());

        for proxy in ["10.255.0.1", "::ffff:10.1.2.3", "192.0.2.1", "2001:db8:1::1", "198.51.100.9"]
        {
            assert!(trust(proxy), "{proxy}");
        }
        for stranger in ["11.0.0.1", "192.0.2.2", "2001:db9::1", "::1", "198.51.101.1"] {
            assert!(!trust(stranger), "{stranger}");
        }
        assert!(!TrustedProxies::default().trust([127, 0, 0, 1].into()), "nobody by default");
    }

    #[test]
    fn an_entry_that_is_no_network_is_named() {
        for entry in [
            "",
            "localhost",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "10.0.0.1:80",
            "0.0.0.0/0",
            "::/0",
            "10.0.0.1/8",
        ] {
            let refused =
                parse(TrustedHeader::Forwarded, &["192.0.2.1", entry]).unwrap_err().to_string();
            assert!(refused.starts_with("gateway.trusted_proxies[1]: "), "{entry}: {refused}");
        }
        let refused = parse(TrustedHeader::Forwarded, &["10.0.0.1/8"]).unwrap_err().to_string();
        assert!(refused.ends_with("the network is 10.0.0.0/8"), "{refused}");
    }
}

//! What a key is to be like, as whoever makes it says.

use std::time::Duration;

use ipnet::IpNet;
use memoric_contract::{FieldError, Permission, Permissions, Roles};
use std::net::IpAddr;

/// What a key is to be like.
pub(crate) struct Wanted {
    /// Its owner's name for it.
    pub(crate) name: String,
    pub(crate) life: Duration,
    /// `None`: whatever its owner may do.
    pub(crate) scopes: Option<Permissions>,
    /// From where it may be used, in CIDR form. None: from anywhere.
    pub(crate) allowed_addresses: Vec<String>,
}

impl Wanted {
    /// What the key may do, which is never more than an owner of `roles` may.
    pub(crate) fn scopes_of(&self, roles: Roles) -> Result<Permissions, FieldError> {
        let own = roles.permissions();
        let scopes = self.scopes.unwrap_or(own);
        if scopes.is_within(own) {
            Ok(scopes)
        } else {
            let message = "Scopes should be among those of the key's owner";
            Err(FieldError::new("scopes", "not_yours", message))
        }
    }
}

/// A name as its owner may give one: seen on one line, and never blank.
pub(crate) fn named(name: String) -> Result<String, FieldError> {
    let characters = name.chars().count();
    if name.trim().is_empty() || characters > LONGEST_NAME || name.chars().any(char::is_control) {
        let message = format!("Name should have 1 to {LONGEST_NAME} characters on one line");
        return Err(FieldError::new("name", "bad_name", &message));
    }
    Ok(name)
}

/// Permissions by their names: at least one, where any are named.
pub(crate) fn scopes(names: Option<Vec<String>>) -> Result<Option<Permissions>, FieldError> {
    let Some(names) = names else { return Ok(None) };
    let scopes: Option<Permissions> = names.iter().map(|name| Permission::named(name)).collect();
    match scopes {
        Some(scopes) if scopes != Permissions::default() => Ok(Some(scopes)),
        _ => {
            let known: Vec<_> = Permission::ALL.into_iter().map(Permission::name).collect();
            let message = format!("Scopes should be some of {}", known.join(", "));
            Err(FieldError::new("scopes", "unknown", &message))
        }
    }
}

/// Addresses and networks, each in its one spelling.
pub(crate) fn networks(from: &[String]) -> Result<Vec<String>, FieldError> {
    let networks: Option<Vec<_>> =
        from.iter().map(|text| network(text).map(|network| network.to_string())).collect();
    networks.filter(|networks| networks.len() <= MOST_NETWORKS).ok_or_else(|| {
        let message =
            format!("Input should be at most {MOST_NETWORKS} addresses or networks in CIDR form");
        FieldError::new("allowed_addresses", "not_a_network", &message)
    })
}

/// Reads an address, or a network in CIDR form, whatever its host bits; an IPv4 address in IPv6
/// dress is an IPv4 address.
fn network(text: &str) -> Option<IpNet> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address.to_canonical())),
        Err(_) => text.parse::<IpNet>().ok().map(|network| network.trunc()),
    }
}

/// Characters of a name.
const LONGEST_NAME: usize = 100;

/// Networks from which one key may be used.
const MOST_NETWORKS: usize = 100;

/// Days that a key lives where nobody says how many.
pub(crate) const USUAL_DAYS: u64 = 90;

/// Days that a key may live.
pub(crate) const MOST_DAYS: u64 = 365;

/// Seconds.
pub(crate) const DAY: u64 = 24 * 3600;

#[cfg(test)]
mod tests {
    use memoric_contract::Role;

    use super::*;

    #[test]
    fn a_network_has_one_spelling() {
        let spelt = |text| network(text).map(|network| network.to_string());
        assert_eq!(spelt("192.0.2.1").as_deref(), Some("192.0.2.1/32"));
        assert_eq!(spelt("::ffff:192.0.2.1").as_deref(), Some("192.0.2.1/32"));
        assert_eq!(spelt("192.0.2.77/24").as_deref(), Some("192.0.2.0/24"));
        assert_eq!(spelt("2001:db8::1/32").as_deref(), Some("2001:db8::/32"));
        for bad in ["", "localhost", "192.0.2.1/33", "192.0.2", "10.0.0.0/8/8"] {
            assert_eq!(spelt(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_key_may_do_no_more_than_its_owner() {
        let user: Roles = [Role::User].into_iter().collect();
        let wanted = |scopes: Option<&[Permission]>| Wanted {
            name: "mine".to_owned(),
            life: Duration::from_secs(DAY),
            scopes: scopes.map(|scopes| scopes.iter().copied().collect()),
            allowed_addresses: Vec::new(),
        };

        assert_eq!(wanted(None).scopes_of(user), Ok(user.permissions()));
        assert!(wanted(Some(&[Permission::ReadMemories])).scopes_of(user).is_ok());
        let beyond = wanted(Some(&[Permission::ReadMemories, Permission::ReadAudit]));
        assert_eq!(beyond.scopes_of(user).unwrap_err().code, "not_yours");
    }
}

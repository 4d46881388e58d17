//! Addresses of listeners, in the words of people.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, de::Error};

/// An address and a port.
pub(crate) fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    parse(&String::deserialize(deserializer)?)
}

/// An address and a port, or null.
pub(crate) fn optional<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    Option::<String>::deserialize(deserializer)?.map(|text| parse(&text)).transpose()
}

fn parse<E: Error>(text: &str) -> Result<SocketAddr, E> {
    text.parse().map_err(|_| E::custom("must be an address and a port, such as 127.0.0.1:8000"))
}

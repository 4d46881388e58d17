//! `key`: API keys, made and ended by whoever may run this program.

use std::time::Duration;

use clap::{Args, Subcommand};
use memoric_contract::{FieldError, KeyId, api_key::CheckKey};

use super::{
    Console, Failure, block_on,
    user::{Desk, Who},
};
use crate::{
    accounts::{self, AccountError},
    api_keys::{self, ApiKeys, DAY, MOST_DAYS, USUAL_DAYS, Wanted},
    config::check_key,
    memories::stored_time,
};

/// What can be done with API keys.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Makes a key for a user, and prints it, which nothing does a second time.
    Create(Create),
    /// Shows the keys of a user that live, without their secrets.
    List {
        #[command(flatten)]
        who: Who,
    },
    /// Ends a key.
    Revoke {
        #[command(flatten)]
        who: Who,
        /// The id of the key: what stands between `mk_` and the next `_`.
        #[arg(long)]
        id: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    who: Who,
    /// What its owner calls it.
    #[arg(long)]
    name: String,
    /// How long it lives.
    #[arg(long, value_name = "DAYS", default_value_t = USUAL_DAYS, value_parser = clap::value_parser!(u64).range(1..=MOST_DAYS))]
    expires_days: u64,
    /// What it may do, of what its owner may; several are separated by commas. All, where it is not said.
    #[arg(long = "scope", alias = "scopes", value_name = "PERMISSION", value_delimiter = ',')]
    scopes: Option<Vec<String>>,
    /// From where it may be used: addresses and networks. From anywhere, where it is not said.
    #[arg(long = "allowed-address", value_name = "CIDR", value_delimiter = ',')]
    allowed_addresses: Vec<String>,
}

pub(super) fn run(console: &Console, command: Command) -> Result<(), Failure> {
    block_on(async {
        let desk = Desk::open(console).await?;
        match command {
            Command::Create(wanted) => create(console, &desk, wanted).await,
            Command::List { who } => list(&desk, &who).await,
            Command::Revoke { who, id } => revoke(&desk, &who, &id).await,
        }
    })
}

/// The key alone goes to standard output, so that it can be sent on from there.
async fn create(console: &Console, desk: &Desk, wanted: Create) -> Result<(), Failure> {
    let owner = desk.find(&wanted.who).await?;
    let wanted = wanted.checked().map_err(AccountError::from)?;
    let keys = keys(console, desk).await?;
    let (key, row) = accounts::create_key(&desk.store, &keys, &owner, &wanted).await?;
    eprintln!(
        "created key {} of {} ({}, until {}); it is shown this once:",
        row.id,
        owner.username,
        row.scopes.names().join(","),
        stored_time(row.expires_at)
    );
    say!("{}", key.expose());
    Ok(())
}

async fn list(desk: &Desk, who: &Who) -> Result<(), Failure> {
    let owner = desk.find(who).await?;
    say!("{:<12}  {:<26}  {:<26}  name", "id", "until", "last used");
    for row in accounts::keys(&desk.store, &owner).await? {
        let last_used = row.last_used_at.map_or_else(|| "-".to_owned(), stored_time);
        say!("{:<12}  {:<26}  {last_used:<26}  {}", row.id, stored_time(row.expires_at), row.name);
    }
    Ok(())
}

async fn revoke(desk: &Desk, who: &Who, id: &str) -> Result<(), Failure> {
    let owner = desk.find(who).await?;
    let id = KeyId::parse(id).ok_or(AccountError::NoSuchKey)?;
    let ended = accounts::revoke_key(&desk.store, &owner, &id).await?;
    desk.courier.carry(&ended).await;
    say!("key {} of {} is revoked", id.0, owner.username);
    Ok(())
}

/// What makes keys: with the pepper of this database, under the check key of these settings.
async fn keys(console: &Console, desk: &Desk) -> Result<ApiKeys, Failure> {
    let check = console.located(check_key(&console.environment))?;
    Ok(ApiKeys::new(CheckKey::new(*check.expose()), desk.secrets(console).await?))
}

impl Create {
    fn checked(self) -> Result<Wanted, FieldError> {
        Ok(Wanted {
            name: api_keys::named(self.name)?,
            life: Duration::from_secs(self.expires_days * DAY),
            scopes: api_keys::scopes(self.scopes)?,
            allowed_addresses: api_keys::networks(&self.allowed_addresses)?,
        })
    }
}

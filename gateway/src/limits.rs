//! How often anyone may ask.

mod deposits;
mod ledger;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use governor::Quota;
use http::{Method, StatusCode};
use memoric_contract::{Identity, KeyId, LimitClass, Network, Operation, PresentedBy, UserId};
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

pub(crate) use self::deposits::Deposit;
use self::{deposits::Deposits, ledger::Ledger};
use crate::{config, rejection::Rejection};

/// The budgets of everyone who has asked lately.
pub(crate) struct Limits {
    addresses: Ledger<Network>,
    probes: Ledger<Network>,
    attempts: Arc<Deposits>,
    refreshes: Arc<Deposits>,
    identities: Ledger<UserId>,
    credentials: Ledger<UserId>,
    endings: Ledger<Presented>,
    passwords: Ledger<Presented>,
    reads: Ledger<Payer>,
    writes: Ledger<Payer>,
    administration: Ledger<Payer>,
}

/// What is left of a budget after a charge.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Budget {
    /// What it is for.
    pub(crate) name: &'static str,
    /// How many may be asked at once when all is left.
    pub(crate) burst: u32,
    /// How many of them are left.
    pub(crate) left: u32,
    /// How many seconds it takes to earn all of them back.
    pub(crate) window: u64,
}

/// What an operation was charged to.
#[derive(Default)]
pub(crate) struct Charged {
    /// What is left of the budget of which least is left.
    pub(crate) budget: Option<Budget>,
    /// What it gets back if it was no guess.
    pub(crate) deposit: Option<Deposit>,
}

/// Who is charged for what an operation does: whoever asks, wherever they connect from, or else
/// where they connect from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Payer {
    User(UserId),
    Network(Network),
}

/// A credential that was presented, whoever presents it: all of a session is one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Presented {
    Session(Uuid),
    ForeignToken(UserId, Uuid),
    ApiKey(KeyId),
}

impl Limits {
    pub(crate) fn new(limits: &config::Limits) -> Self {
        let keys = limits.keys;
        Self {
            addresses: Ledger::new("address", limits.address, keys),
            probes: Ledger::new("health", limits.health, keys),
            attempts: Deposits::new("credentials", limits.credentials, keys, Instant::now()),
            refreshes: Deposits::new("refresh", limits.credentials, keys, Instant::now()),
            identities: Ledger::new("identity", limits.identity, keys),
            credentials: Ledger::new("credentials", limits.credentials, keys),
            endings: Ledger::new("endings", limits.write, keys),
            passwords: Ledger::new("passwords", limits.credentials, keys),
            reads: Ledger::new("read", limits.read, keys),
            writes: Ledger::new("write", limits.write, keys),
            administration: Ledger::new("admin", limits.admin, keys),
        }
    }

    /// Charges the address a request came from, before we know who sent it.
    ///
    /// Whoever shares an address with a probe must not keep it from its answer, so what asks for
    /// health has a budget of its own.
    pub(crate) fn charge_client(
        &self,
        client: Option<IpAddr>,
        operation: Option<Operation>,
    ) -> Result<Budget, Rejection> {
        match operation.map(Operation::limit_class) {
            Some(LimitClass::Health) => self.probes.charge(&network(client)?),
            _ => self.addresses.charge(&network(client)?),
        }
    }

    /// Charges who is known for asking, whether they may or not.
    ///
    /// What ends credentials is charged to the one that is presented, and to nothing else: whoever stole
    /// one spends all that its owner has for the rest, and must not keep the owner from ending it by
    /// another. Who logs in anew has all of it.
    pub(crate) fn charge_caller(
        &self,
        identity: &Identity,
        operation: Option<Operation>,
    ) -> Result<Budget, Rejection> {
        match operation.filter(|operation| ends_credentials(*operation)) {
            Some(Operation::ChangePassword) => self.passwords.charge(&Presented::of(identity)),
            Some(_) => self.endings.charge(&Presented::of(identity)),
            None => self.identities.charge(&identity.user),
        }
    }

    /// Charges whoever may have it for what an operation does, on top of what was charged for asking.
    ///
    /// Where a secret could be guessed that is the address, which is all that is known of a stranger.
    /// Who is known answers for themselves, also for guesses at their own password: from wherever they
    /// make them, at nobody else's expense.
    pub(crate) fn charge_operation(
        &self,
        identity: Option<&Identity>,
        client: Option<IpAddr>,
        operation: Operation,
    ) -> Result<Charged, Rejection> {
        if identity.is_some() && ends_credentials(operation) {
            return Ok(Charged::default());
        }
        let payer = match identity {
            Some(identity) => Payer::User(identity.user),
            None => Payer::Network(network(client)?),
        };
        let doing = match (operation.limit_class(), payer) {
            // It was charged for already.
            (LimitClass::Health, _) => return Ok(Charged::default()),
            (LimitClass::Credentials, Payer::User(user)) => self.credentials.charge(&user)?,
            (LimitClass::Credentials, Payer::Network(network)) => {
                let deposits = self.deposits(operation);
                let deposit = Some(deposits.take(network, Instant::now())?);
                return Ok(Charged { budget: None, deposit });
            }
            (LimitClass::Read, payer) => self.reads.charge(&payer)?,
            (LimitClass::Write, payer) => self.writes.charge(&payer)?,
            (LimitClass::Admin, payer) => self.administration.charge(&payer)?,
        };
        Ok(Charged { budget: Some(doing), deposit: None })
    }

    /// What a stranger's attempt is paid from. Refreshes have their own: whoever guesses at passwords
    /// beside somebody must not log them out, as they would when the access token ends.
    const fn deposits(&self, operation: Operation) -> &Arc<Deposits> {
        match operation {
            Operation::Refresh => &self.refreshes,
            _ => &self.attempts,
        }
    }

    /// Gives back the `deposit` for an attempt that was answered with `status`, where that says that
    /// nobody guessed. Only a refresh gets it back: what was no guess is charged as the write that it is,
    /// as far as the address has room for writes.
    ///
    /// A login never does, good or bad. Whatever it comes to it costs the hash of a password, and begins a
    /// session where it goes well: who has one password could have both without end. Nor is a list of
    /// passwords to be tried the faster, the more of them fit. A registration or a reset that goes well
    /// changes more than either.
    pub(crate) fn settle(&self, deposit: &mut Deposit, operation: Operation, status: StatusCode) {
        let is_good = operation == Operation::Refresh && status.is_success();
        let now = Instant::now();
        if is_good && self.writes.charge(&Payer::Network(deposit.network())).is_ok() {
            deposit.give_back(now);
        } else {
            deposit.keep(now);
        }
    }

    /// Charges whoever may ask a service for reading, or for writing where the `method` may change
    /// something.
    pub(crate) fn charge_route(
        &self,
        identity: &Identity,
        method: &Method,
    ) -> Result<Charged, Rejection> {
        let ledger = if method.is_safe() { &self.reads } else { &self.writes };
        let doing = ledger.charge(&Payer::User(identity.user))?;
        Ok(Charged { budget: Some(doing), deposit: None })
    }

    /// Forgets, now and then, whoever has earned back everything.
    pub(crate) async fn tidy(&self) {
        let mut due = interval(TIDYING);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            [&self.attempts, &self.refreshes]
                .into_iter()
                .for_each(|each| each.tidy(Instant::now()));
            [&self.addresses, &self.probes].into_iter().for_each(Ledger::tidy);
            [&self.identities, &self.credentials].into_iter().for_each(Ledger::tidy);
            [&self.endings, &self.passwords].into_iter().for_each(Ledger::tidy);
            [&self.reads, &self.writes, &self.administration].into_iter().for_each(Ledger::tidy);
        }
    }
}

impl Presented {
    fn of(identity: &Identity) -> Self {
        match &identity.presented {
            PresentedBy::AccessToken { sid, .. } => Self::Session(*sid),
            PresentedBy::ForeignToken { id, .. } => Self::ForeignToken(identity.user, *id),
            PresentedBy::ApiKey { id, .. } => Self::ApiKey(id.clone()),
        }
    }
}

impl Budget {
    /// The one of which least is left.
    pub(crate) fn tightest(budgets: impl IntoIterator<Item = Option<Self>>) -> Option<Self> {
        budgets.into_iter().flatten().min_by_key(|budget| budget.left)
    }

    fn of(name: &'static str, quota: Quota, left: u32) -> Self {
        let window = quota.burst_size_replenished_in();
        let window = window.as_secs() + u64::from(window.subsec_nanos() > 0);
        Self { name, burst: quota.burst_size().get(), left, window }
    }
}

/// Whether it is what an owner asks for who ends a stolen credential, finding it included.
const fn ends_credentials(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::Logout
            | Operation::LogoutEverywhere
            | Operation::ListSessions
            | Operation::EndSession
            | Operation::ListApiKeys
            | Operation::RevokeApiKey
            | Operation::ChangePassword
    )
}

fn network(client: Option<IpAddr>) -> Result<Network, Rejection> {
    client.map(Network::of).ok_or(Rejection::Unaccountable)
}

/// How often the budgets are looked through for those that are full again.
const TIDYING: Duration = Duration::from_secs(30);

//! How often anyone may ask.

mod deposits;
mod ledger;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use governor::Quota;
use http::StatusCode;
use memoric_contract::{Identity, LimitClass, Network, Operation, UserId};
use tokio::time::{MissedTickBehavior, interval};

pub(crate) use self::deposits::Deposit;
use self::{deposits::Deposits, ledger::Ledger};
use crate::{config, rejection::Rejection};

/// The budgets of everyone who has asked lately.
pub(crate) struct Limits {
    addresses: Ledger<Network>,
    probes: Ledger<Network>,
    attempts: Arc<Deposits>,
    identities: Ledger<UserId>,
    credentials: Ledger<UserId>,
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

impl Limits {
    pub(crate) fn new(limits: &config::Limits) -> Self {
        let keys = limits.keys;
        Self {
            addresses: Ledger::new("address", limits.address, keys),
            probes: Ledger::new("health", limits.health, keys),
            attempts: Deposits::new("credentials", limits.credentials, keys, Instant::now()),
            identities: Ledger::new("identity", limits.identity, keys),
            credentials: Ledger::new("credentials", limits.credentials, keys),
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

    /// Charges whoever asks for an operation, once for asking and once for what it does.
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
        let asking = identity.map(|identity| self.identities.charge(&identity.user)).transpose()?;
        let payer = || match identity {
            Some(identity) => Ok(Payer::User(identity.user)),
            None => network(client).map(Payer::Network),
        };
        let doing = match operation.limit_class() {
            // It was charged for already.
            LimitClass::Health => None,
            LimitClass::Credentials => match payer()? {
                Payer::User(user) => Some(self.credentials.charge(&user)?),
                Payer::Network(network) => {
                    let deposit = Some(self.attempts.take(network, Instant::now())?);
                    return Ok(Charged { budget: asking, deposit });
                }
            },
            LimitClass::Read => Some(self.reads.charge(&payer()?)?),
            LimitClass::Write => Some(self.writes.charge(&payer()?)?),
            LimitClass::Admin => Some(self.administration.charge(&payer()?)?),
        };
        Ok(Charged { budget: Budget::tightest([asking, doing]), deposit: None })
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

    /// Forgets, now and then, whoever has earned back everything.
    pub(crate) async fn tidy(&self) {
        let mut due = interval(TIDYING);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            self.attempts.tidy(Instant::now());
            [&self.addresses, &self.probes].into_iter().for_each(Ledger::tidy);
            [&self.identities, &self.credentials].into_iter().for_each(Ledger::tidy);
            [&self.reads, &self.writes, &self.administration].into_iter().for_each(Ledger::tidy);
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

fn network(client: Option<IpAddr>) -> Result<Network, Rejection> {
    client.map(Network::of).ok_or(Rejection::Unaccountable)
}

/// How often the budgets are looked through for those that are full again.
const TIDYING: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        num::{NonZeroU32, NonZeroUsize},
    };

    use memoric_contract::Role;

    use super::*;
    use crate::authn::tests::somebody;

    #[test]
    fn a_burst_is_spent_and_the_wait_is_told() {
        let limits = limits(3, 1000);
        let charge = || limits.charge_client(Some([192, 0, 2, 1].into()), None);
        assert_eq!(charge().unwrap().left, 2);
        assert!(charge().is_ok() && charge().is_ok());
        let Err(Rejection::TooMany { retry_after, budget }) = charge() else { panic!("a fourth") };
        assert!(retry_after <= Duration::from_secs(1) && !retry_after.is_zero());
        assert_eq!(budget, Budget { name: "address", burst: 3, left: 0, window: 3 });
    }

    #[test]
    fn addresses_of_one_customer_are_one() {
        let limits = limits(1, 1000);
        let charge =
            |address: &str| limits.charge_client(Some(address.parse().unwrap()), None).is_ok();
        assert!(charge("2001:db8::1") && !charge("2001:db8::2"), "a /64 is one customer");
        assert!(charge("2001:db8:0:1::1"), "and the next /64 another");
        assert!(charge("192.0.2.1") && !charge("::ffff:192.0.2.1"), "in whatever dress");
        assert!(limits.charge_client(None, None).is_err(), "nobody is not let in for free");
    }

    #[test]
    fn those_without_room_share_one_budget() {
        let limits = limits(2, 1);
        let charge = |last: u8| limits.charge_client(Some([192, 0, 2, last].into()), None).is_ok();
        assert!(charge(1));
        assert!(charge(2) && charge(3), "two for all the rest together");
        assert!(!charge(4) && !charge(2));
        assert!(charge(1), "who has a place keeps it");
    }

    #[test]
    fn a_secret_is_guessed_at_the_addresss_expense() {
        let limits = limits(1, 1000);
        let charge =
            |operation| limits.charge_operation(None, Some([192, 0, 2, 1].into()), operation);
        assert!(charge(Operation::Login).is_ok());
        assert!(charge(Operation::Register).is_err(), "one budget for every guess");
        assert!(charge(Operation::ShowOpenApi).is_ok());
    }

    #[test]
    fn a_good_refresh_gets_back_what_it_was_charged_and_nothing_else_does() {
        let answers = [StatusCode::OK, StatusCode::UNAUTHORIZED, StatusCode::SERVICE_UNAVAILABLE];
        let operations =
            [Operation::Refresh, Operation::Login, Operation::Register, Operation::ResetPassword];
        for (operation, status) in
            operations.into_iter().flat_map(|operation| answers.map(|status| (operation, status)))
        {
            let limits = limits(9, 1000);

            let left = attempt(&limits, operation, status);

            let is_good_refresh = (operation, status) == (Operation::Refresh, StatusCode::OK);
            let expected = if is_good_refresh { 9 } else { 8 };
            assert_eq!(left, Ok(expected), "{operation:?} {status}");
        }
    }

    #[test]
    fn a_good_refresh_is_charged_as_the_write_that_it_is() {
        let limits = Limits::new(&config::Limits { write: quota(2), ..quotas(9, 1000) });
        let refresh = || attempt(&limits, Operation::Refresh, StatusCode::OK);

        assert_eq!([refresh(), refresh(), refresh()], [Ok(9), Ok(9), Ok(8)]);
    }

    #[test]
    fn who_is_known_is_charged_for_what_they_try() {
        let limits = Limits::new(&config::Limits { identity: quota(9), ..quotas(1, 1000) });
        let charge = |user, last| {
            let (user, client) = (somebody(user, Role::User), [192, 0, 2, last].into());
            limits.charge_operation(Some(&user), Some(client), Operation::ChangePassword).is_ok()
        };
        assert_eq!(attempt(&limits, Operation::Login, StatusCode::UNAUTHORIZED), Ok(0));

        assert!(charge(7, 1), "whatever strangers guess at their address");
        assert!(!charge(7, 1) && !charge(7, 2), "from wherever");
        assert!(charge(8, 1), "nor does anybody else pay for them");
    }

    #[test]
    fn each_class_has_a_budget_of_its_own() {
        let limits = Limits::new(&config::Limits { identity: quota(100), ..quotas(1, 1000) });
        let charge = |operation| charge_user(&limits, operation);
        let operations = [
            Operation::RecallMemories,
            Operation::RememberMemory,
            Operation::ReadAudit,
            Operation::ChangePassword,
        ];

        for operation in operations {
            assert_eq!(charge(operation).unwrap().map(|budget| budget.left), Some(0));
        }
        for operation in operations {
            assert!(charge(operation).is_err(), "{operation:?}");
        }
        for health in [Operation::ShowHealth, Operation::ShowReadiness] {
            let told = charge(health).unwrap().unwrap();
            assert_eq!(told.name, "identity", "it was charged for before");
        }
    }

    #[test]
    fn health_is_asked_at_nobody_elses_expense() {
        let limits = limits(1, 1000);
        let charge = |operation| limits.charge_client(CLIENT, operation).map(|budget| budget.name);

        assert_eq!(charge(None), Ok("address"));
        assert!(charge(Some(Operation::RecallMemories)).is_err(), "one budget for all the rest");
        assert_eq!(charge(Some(Operation::ShowReadiness)), Ok("health"));
        assert!(charge(Some(Operation::ShowHealth)).is_err(), "and one for health");
    }

    #[test]
    fn the_budget_is_told_of_which_least_is_left() {
        let limits = Limits::new(&config::Limits { read: quota(5), ..quotas(9, 1000) });
        let told = |operation| charge_user(&limits, operation).unwrap().unwrap();

        assert_eq!(told(Operation::RecallMemories).name, "read");
        assert_eq!(told(Operation::RecallMemories).left, 3);
        let told = told(Operation::RememberMemory);
        assert_eq!((told.name, told.left), ("identity", 6));
    }

    /// Charges one user for it.
    fn charge_user(limits: &Limits, operation: Operation) -> Result<Option<Budget>, Rejection> {
        let charged = limits.charge_operation(Some(&somebody(7, Role::User)), CLIENT, operation);
        charged.map(|charged| charged.budget)
    }

    /// What is left for attempts when one of a stranger's was answered with `status`.
    fn attempt(
        limits: &Limits,
        operation: Operation,
        status: StatusCode,
    ) -> Result<u32, Rejection> {
        let mut deposit = limits.charge_operation(None, CLIENT, operation)?.deposit.unwrap();
        limits.settle(&mut deposit, operation, status);
        Ok(deposit.budget(Instant::now()).left)
    }

    fn limits(burst: u32, keys: usize) -> Limits {
        Limits::new(&quotas(burst, keys))
    }

    fn quotas(burst: u32, keys: usize) -> config::Limits {
        config::Limits {
            address: quota(burst),
            identity: quota(burst),
            health: quota(burst),
            credentials: quota(burst),
            read: quota(burst),
            write: quota(burst),
            admin: quota(burst),
            keys: NonZeroUsize::new(keys).unwrap(),
        }
    }

    /// One in a second, and so many at once.
    fn quota(burst: u32) -> Quota {
        Quota::per_second(NonZeroU32::MIN).allow_burst(NonZeroU32::new(burst).unwrap())
    }

    const CLIENT: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
}

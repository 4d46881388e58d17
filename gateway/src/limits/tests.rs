//! What is charged to whom.

use std::{
    net::Ipv4Addr,
    num::{NonZeroU32, NonZeroUsize},
};

use memoric_contract::{Permissions, Role};

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
    let charge = |address: &str| limits.charge_client(Some(address.parse().unwrap()), None).is_ok();
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
    let charge = |operation| limits.charge_operation(None, Some([192, 0, 2, 1].into()), operation);
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
fn guesses_at_passwords_and_refreshes_have_budgets_of_their_own() {
    for (spent, other) in
        [(Operation::Login, Operation::Refresh), (Operation::Refresh, Operation::Login)]
    {
        let limits = limits(1, 1000);

        assert_eq!(attempt(&limits, spent, StatusCode::UNAUTHORIZED), Ok(0));
        assert!(attempt(&limits, spent, StatusCode::OK).is_err(), "{spent:?}");
        assert!(attempt(&limits, other, StatusCode::OK).is_ok(), "{other:?}");
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
        limits.charge_operation(Some(&user), Some(client), Operation::CreateApiKey).is_ok()
    };
    assert_eq!(attempt(&limits, Operation::Login, StatusCode::UNAUTHORIZED), Ok(0));

    assert!(charge(7, 1), "whatever strangers guess at their address");
    assert!(!charge(7, 1) && !charge(7, 2), "from wherever");
    assert!(charge(8, 1), "nor does anybody else pay for them");
}

#[test]
fn whatever_a_credential_asks_another_of_its_owner_may_end_it() {
    for ending in ENDINGS {
        let limits = limits(2, 1000);
        let (stolen, other, session) =
            (key_of(7, "stolen"), key_of(7, "other"), somebody(7, Role::User));
        for spent in [ending, Operation::RecallMemories] {
            for _ in 0..3 {
                let _ = charge(&limits, &stolen, spent);
            }
            assert!(charge(&limits, &stolen, spent).is_err(), "{spent:?}");
        }

        assert!(charge(&limits, &other, ending).is_ok(), "{ending:?}");
        let told = charge(&limits, &session, ending).unwrap().unwrap();
        assert_eq!((told.burst, told.left), (2, 1), "{ending:?}");
        assert!(charge(&limits, &session, Operation::RecallMemories).is_err());
    }
}

#[test]
fn an_ending_is_charged_as_its_class_is() {
    let quotas = config::Limits { write: quota(3), credentials: quota(2), ..quotas(9, 1000) };
    for ending in ENDINGS {
        let (limits, session) = (Limits::new(&quotas), somebody(7, Role::User));
        let allowed = (0..9).filter(|_| charge(&limits, &session, ending).is_ok()).count();

        let is_guess = ending.limit_class() == LimitClass::Credentials;
        assert_eq!(allowed, if is_guess { 2 } else { 3 }, "{ending:?}");
    }
}

#[test]
fn each_class_has_a_budget_of_its_own() {
    let limits = Limits::new(&config::Limits { identity: quota(100), ..quotas(1, 1000) });
    let charge = |operation| charge_user(&limits, operation);
    let operations = [
        Operation::RecallMemories,
        Operation::RememberMemory,
        Operation::ReadAudit,
        Operation::CreateApiKey,
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
fn a_service_is_asked_at_the_expense_of_reads_or_of_writes() {
    let limits = Limits::new(&config::Limits { identity: quota(100), ..quotas(1, 1000) });
    let charge = |method| limits.charge_route(&somebody(7, Role::User), &method);

    assert_eq!(charge(Method::GET).unwrap().budget.unwrap().name, "read");
    assert!(charge(Method::HEAD).is_err() && charge_user(&limits, Operation::ShowMe).is_err());
    assert_eq!(charge(Method::POST).unwrap().budget.unwrap().name, "write");
    assert!(charge(Method::DELETE).is_err());
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

/// Charges one user for asking for it, and for what it does.
fn charge_user(limits: &Limits, operation: Operation) -> Result<Option<Budget>, Rejection> {
    charge(limits, &somebody(7, Role::User), operation)
}

fn charge(
    limits: &Limits,
    identity: &Identity,
    operation: Operation,
) -> Result<Option<Budget>, Rejection> {
    let asking = limits.charge_caller(identity, Some(operation))?;
    let charged = limits.charge_operation(Some(identity), CLIENT, operation)?;
    Ok(Budget::tightest([Some(asking), charged.budget]))
}

/// An API key of somebody's.
fn key_of(user: i64, id: &str) -> Identity {
    let presented = PresentedBy::ApiKey {
        id: KeyId(id.to_owned()),
        scopes: Permissions::default(),
        generation: 1,
        expires_at: u64::MAX,
    };
    Identity { presented, ..somebody(user, Role::User) }
}

const ENDINGS: [Operation; 7] = [
    Operation::Logout,
    Operation::LogoutEverywhere,
    Operation::ListSessions,
    Operation::EndSession,
    Operation::ListApiKeys,
    Operation::RevokeApiKey,
    Operation::ChangePassword,
];

/// What is left for attempts when one of a stranger's was answered with `status`.
fn attempt(limits: &Limits, operation: Operation, status: StatusCode) -> Result<u32, Rejection> {
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

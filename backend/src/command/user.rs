//! `user`: accounts, made and changed by whoever may run this program.

use std::{
    io::{self, IsTerminal as _, Read as _},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
};

use clap::{Args, Subcommand};
use memoric_config::redis::Redis;
use memoric_contract::{Role, Roles};
use secrecy::SecretString;
use serde_json::json;
use zeroize::Zeroizing;

use super::{Console, Failure, block_on};
use crate::{
    accounts::{self, AccountError, FirstAdminIs, Wanted},
    backend::{ensure_right_key, ring_key, service_secrets},
    config::{Database, EncryptionKey, FirstAdmin},
    memories::stored_time,
    metrics::Metrics,
    migrate,
    passwords::Passwords,
    people::{Email, FullName, Namespace, UserRef, Username},
    resets::Resets,
    revocation::Courier,
    seal::{Keyring, ServiceSecrets},
    store::{Account, AccountChange, Pools, Store},
};

/// What can be done with accounts.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Makes an account. The password is asked for, unless it comes otherwise.
    Create(Create),
    /// Shows every account.
    List {
        /// As JSON, one account per line.
        #[arg(long)]
        json: bool,
    },
    /// Shows one account, and the subjects of other issuers that are let in as it.
    Show {
        #[command(flatten)]
        who: Who,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Gives a user other roles, and ends their sessions.
    SetRoles {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        roles: RoleNames,
    },
    /// Lets a user in no more, and ends their sessions.
    Deactivate {
        #[command(flatten)]
        who: Who,
    },
    /// Lets a user in again.
    Activate {
        #[command(flatten)]
        who: Who,
    },
    /// Puts a user in another namespace, or in none, and ends their sessions.
    SetNamespace {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        namespace: NamespaceName,
    },
    /// Lets whom another issuer calls SUBJECT in as a user.
    Link(Link),
    /// Lets them in no more, and ends the user's sessions.
    Unlink(Link),
    /// Ends a user's sessions, and shows a token by which they choose another password within an hour.
    ResetPassword {
        #[command(flatten)]
        who: Who,
    },
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// 3 to 50 letters, digits, _ and -, not all of them digits.
    #[arg(long)]
    username: String,
    #[arg(long)]
    email: String,
    #[command(flatten)]
    roles: RoleNames,
    #[arg(long)]
    full_name: Option<String>,
    /// The group of users that this one belongs to.
    #[arg(long)]
    namespace: Option<String>,
    #[command(flatten)]
    password: PasswordSource,
}

#[derive(Debug, Args)]
pub(super) struct Who {
    /// A user name, or an id if it is all digits.
    #[arg(long = "user", value_name = "NAME|ID")]
    user: String,
}

#[derive(Debug, Args)]
pub(super) struct Link {
    #[command(flatten)]
    who: Who,
    /// One of `auth.issuers`, exactly as it is there.
    #[arg(long)]
    issuer: String,
    /// What the issuer calls them in `sub`.
    #[arg(long, value_parser = subject)]
    subject: String,
}

#[derive(Debug, Args)]
pub(super) struct RoleNames {
    /// admin, user or readonly; several are separated by commas.
    #[arg(long = "role", alias = "roles", value_name = "ROLE", required = true, value_delimiter = ',', value_parser = role)]
    roles: Vec<Role>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct NamespaceName {
    /// The group of users to belong to.
    #[arg(long)]
    namespace: Option<String>,
    /// Belongs to no group.
    #[arg(long)]
    none: bool,
}

/// Where a password comes from. Never an argument: those are for everybody on the machine to see.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct PasswordSource {
    /// Reads the password from standard input.
    #[arg(long)]
    password_stdin: bool,
    /// Reads the password from a file.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// What the commands work with.
pub(super) struct Desk {
    pub(super) store: Store,
    pub(super) courier: Courier,
}

pub(super) fn run(console: &Console, command: Command) -> Result<(), Failure> {
    block_on(async {
        let desk = Desk::open(console).await?;
        match command {
            Command::Create(wanted) => desk.create(wanted).await,
            Command::List { json } => desk.list(json).await,
            Command::Show { who, json } => desk.show(&who, json).await,
            Command::SetRoles { who, roles } => desk.set_roles(&who, &roles).await,
            Command::Deactivate { who } => desk.deactivate(&who).await,
            Command::Activate { who } => desk.activate(&who).await,
            Command::SetNamespace { who, namespace } => desk.set_namespace(&who, &namespace).await,
            Command::Link(link) => desk.link(console, &link).await,
            Command::Unlink(link) => desk.unlink(&link).await,
            Command::ResetPassword { who } => desk.reset_password(console, &who).await,
        }
    })
}

/// Makes the admin that `CREATE_ADMIN` asks for, if it asks for one.
pub(super) fn make_first_admin(console: &Console) -> Result<(), Failure> {
    let Some(admin) = console.located(FirstAdmin::new(&console.environment))? else {
        return Ok(());
    };
    block_on(async {
        let desk = Desk::open(console).await?;
        let passwords = Passwords::new(NonZeroUsize::MIN, 0)?;
        match accounts::ensure_first_admin(&desk.store, &passwords, &admin).await? {
            FirstAdminIs::Made => say!("created {} (admin)", admin.username),
            FirstAdminIs::There => say!("{} (admin) is there already", admin.username),
        }
        Ok(())
    })
}

impl Desk {
    pub(super) async fn open(console: &Console) -> Result<Self, Failure> {
        let (settings, environment) = (&console.loaded.settings, &console.environment);
        let database = console.located(Database::new(&settings.database, environment))?;
        let redis = console.located(Redis::new(&settings.redis, environment))?;
        let store = Store::new(Pools::new(&database)?);
        migrate::ensure_compatible(&store.pools().auth).await?;
        store.register_context_key_briefly().await?;
        let courier = Courier::new(Arc::new(redis), &Metrics::new()?);
        Ok(Self { store, courier })
    }

    async fn create(&self, wanted: Create) -> Result<(), Failure> {
        let password = wanted.password.read()?;
        let wanted = Wanted {
            username: Username::parse(&wanted.username).map_err(AccountError::from)?,
            email: Email::parse(&wanted.email).map_err(AccountError::from)?,
            full_name: wanted
                .full_name
                .as_deref()
                .map(FullName::parse)
                .transpose()
                .map_err(AccountError::from)?,
            namespace: wanted
                .namespace
                .as_deref()
                .map(Namespace::parse)
                .transpose()
                .map_err(AccountError::from)?,
            roles: wanted.roles.set(),
        };
        let passwords = Passwords::new(NonZeroUsize::MIN, 0)?;
        let account = accounts::create(&self.store, &passwords, &wanted, password).await?;
        say!("created {} (id {}, {})", account.username, account.id, names(account.roles));
        Ok(())
    }

    async fn list(&self, json: bool) -> Result<(), Failure> {
        let accounts = accounts::list(&self.store).await?;
        if json {
            accounts.iter().for_each(|account| say!("{}", as_json(account)));
            return Ok(());
        }
        say!("{:>6}  {:<24} {:<32} {:<16} {}", "id", "user", "e-mail", "roles", "active");
        for account in &accounts {
            let active = if account.is_active { "yes" } else { "no" };
            say!(
                "{:>6}  {:<24} {:<32} {:<16} {active}",
                account.id,
                account.username,
                account.email,
                names(account.roles)
            );
        }
        Ok(())
    }

    async fn show(&self, who: &Who, json: bool) -> Result<(), Failure> {
        let account = self.find(who).await?;
        let links = accounts::links(&self.store, account.id).await?;
        if json {
            let mut shown = as_json(&account);
            let links = links
                .iter()
                .map(|(issuer, subject)| json!({ "issuer": issuer, "subject": subject }));
            if let Some(members) = shown.as_object_mut() {
                members.insert("links".to_owned(), links.collect());
            }
            say!("{shown}");
            return Ok(());
        }
        let never = || "-".to_owned();
        say!("id          {}", account.id);
        say!("user        {}", account.username);
        say!("e-mail      {}", account.email);
        say!("full name   {}", account.full_name.as_deref().unwrap_or("-"));
        say!("namespace   {}", account.namespace.as_deref().unwrap_or("-"));
        say!("roles       {}", names(account.roles));
        say!("active      {}", if account.is_active { "yes" } else { "no" });
        say!("created     {}", stored_time(account.created_at));
        say!("last login  {}", account.last_login_at.map_or_else(never, stored_time));
        for (issuer, subject) in &links {
            say!("linked      {subject} of {issuer}");
        }
        Ok(())
    }

    async fn set_roles(&self, who: &Who, roles: &RoleNames) -> Result<(), Failure> {
        let roles = roles.set();
        let change = AccountChange { roles: Some(roles), ..AccountChange::default() };
        let account = self.change(who, "set_roles", &change).await?;
        say!("{} is now {}; their sessions have ended", account.username, names(roles));
        Ok(())
    }

    async fn deactivate(&self, who: &Who) -> Result<(), Failure> {
        let change = AccountChange { is_active: Some(false), ..AccountChange::default() };
        let account = self.change(who, "deactivate_user", &change).await?;
        say!("{} is deactivated; their sessions have ended", account.username);
        Ok(())
    }

    async fn activate(&self, who: &Who) -> Result<(), Failure> {
        let change = AccountChange { is_active: Some(true), ..AccountChange::default() };
        let account = self.change(who, "activate_user", &change).await?;
        say!("{} is active", account.username);
        Ok(())
    }

    async fn set_namespace(&self, who: &Who, wanted: &NamespaceName) -> Result<(), Failure> {
        let namespace = wanted.namespace.as_deref().map(Namespace::parse).transpose();
        let namespace = namespace.map_err(AccountError::from)?;
        let namespace = namespace.map(|namespace| namespace.as_str().to_owned());
        let said = namespace.clone().unwrap_or_else(|| "no namespace".to_owned());
        let change = AccountChange { namespace: Some(namespace), ..AccountChange::default() };
        let account = self.change(who, "set_namespace", &change).await?;
        say!("{} is now in {said}; their sessions have ended", account.username);
        Ok(())
    }

    async fn reset_password(&self, console: &Console, who: &Who) -> Result<(), Failure> {
        let token = Resets::new(self.secrets(console).await?).mint()?;
        let change = AccountChange { reset: Some(token.hash), ..AccountChange::default() };
        let account = self.change(who, "reset_password", &change).await?;
        eprintln!(
            "the sessions of {} have ended; by this, shown once, they set a password within an hour:",
            account.username
        );
        say!("{}", token.expose());
        Ok(())
    }

    async fn link(&self, console: &Console, link: &Link) -> Result<(), Failure> {
        let Link { who, issuer, subject } = link;
        let known = &console.loaded.settings.auth.issuers;
        if !known.iter().any(|known| known.issuer == *issuer) {
            return Err("the issuer is none of auth.issuers".into());
        }
        let account = self.find(who).await?;
        accounts::link(&self.store, account.id, (issuer, subject)).await?;
        say!("{subject} of {issuer} is {}", account.username);
        Ok(())
    }

    async fn unlink(&self, link: &Link) -> Result<(), Failure> {
        let Link { who, issuer, subject } = link;
        let account = self.find(who).await?;
        let ended = accounts::unlink(&self.store, account.id, (issuer, subject)).await?;
        self.courier.carry(&ended).await;
        say!("{subject} of {issuer} is {} no more; their sessions have ended", account.username);
        Ok(())
    }

    /// Changes the account of `who`, and tells the gateways what has ended by it.
    async fn change(
        &self,
        who: &Who,
        command: &str,
        change: &AccountChange,
    ) -> Result<Account, Failure> {
        let account = self.find(who).await?;
        let ended = accounts::change(&self.store, account.id, command, change).await?;
        self.courier.carry(&ended).await;
        Ok(account)
    }

    /// The secrets of the service, which only some commands need.
    pub(super) async fn secrets(&self, console: &Console) -> Result<Arc<ServiceSecrets>, Failure> {
        let (settings, environment) = (&console.loaded.settings, &console.environment);
        let key = console.located(EncryptionKey::new(settings, environment))?;
        let ring = Keyring::new(ring_key(&key)?, Vec::new());
        ensure_right_key(&self.store, &ring).await?;
        Ok(Arc::new(service_secrets(&self.store, &ring).await?))
    }

    pub(super) async fn find(&self, who: &Who) -> Result<Account, Failure> {
        let who = UserRef::parse(&who.user).map_err(AccountError::from)?;
        Ok(accounts::find(&self.store, &who).await?)
    }
}

fn subject(text: &str) -> Result<String, &'static str> {
    let is_one = memoric_contract::token::foreign::is_subject(text);
    if is_one {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 255 bytes without control characters")
    }
}

impl RoleNames {
    fn set(&self) -> Roles {
        self.roles.iter().copied().collect()
    }
}

impl PasswordSource {
    fn read(&self) -> Result<SecretString, Failure> {
        let password = match &self.password_file {
            Some(path) => {
                let text =
                    Zeroizing::new(std::fs::read_to_string(path).map_err(|error| {
                        format!("{} could not be read: {error}", path.display())
                    })?);
                first_line(&text)
            }
            None if self.password_stdin => {
                let mut text = Zeroizing::new(String::new());
                io::stdin().take(LONGEST_INPUT).read_to_string(&mut text)?;
                first_line(&text)
            }
            None => prompt()?,
        };
        use secrecy::ExposeSecret as _;
        if password.expose_secret().is_empty() || password.expose_secret().contains('\0') {
            return Err("the password is empty or holds a NUL character".into());
        }
        Ok(password)
    }
}

/// Asks twice, on the terminal.
fn prompt() -> Result<SecretString, Failure> {
    if !io::stdin().is_terminal() {
        return Err(
            "there is no terminal to ask for a password: use --password-stdin or --password-file"
                .into(),
        );
    }
    let once = Zeroizing::new(rpassword::prompt_password("Password: ")?);
    let again = Zeroizing::new(rpassword::prompt_password("Again: ")?);
    if *once != *again {
        return Err("the two passwords are not the same".into());
    }
    Ok(SecretString::from(once.as_str()))
}

/// A password is one line; what an editor or `echo` puts behind it is not part of it.
fn first_line(text: &str) -> SecretString {
    SecretString::from(text.lines().next().unwrap_or_default())
}

fn as_json(account: &Account) -> serde_json::Value {
    json!({
        "id": account.id,
        "username": account.username,
        "email": account.email,
        "full_name": account.full_name,
        "namespace": account.namespace,
        "roles": account.roles,
        "is_active": account.is_active,
        "is_verified": account.is_verified,
        "created_at": stored_time(account.created_at),
        "last_login_at": account.last_login_at.map(stored_time),
    })
}

fn names(roles: Roles) -> String {
    roles.iter().map(Role::name).collect::<Vec<_>>().join(",")
}

fn role(name: &str) -> Result<Role, String> {
    let known = || Role::ALL.map(Role::name).join(", ");
    Role::named(name).ok_or_else(|| format!("roles are {}", known()))
}

/// Bytes: more than any password takes.
const LONGEST_INPUT: u64 = 4096;

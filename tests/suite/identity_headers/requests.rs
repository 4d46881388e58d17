//! Requests in which a client says who it would like to be.

use harness::token;
use memoric_contract::{Demands, Operation, Role, Takes};

/// Makes requests, the same ones in every run.
pub(super) struct Maker {
    dice: Dice,
    /// Who can prove who they are, by their ids.
    people: Vec<(i64, String)>,
    /// Where a service is that all of them are for, in place of operations.
    service: Option<&'static str>,
}

/// One request.
pub(super) struct Made {
    pub(super) method: &'static str,
    /// Names, in its query, who the origin is to take it for: an id, or 0 for nobody.
    pub(super) target: String,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Option<&'static str>,
    /// Where there are any, the body is chunked.
    pub(super) trailers: Vec<(String, String)>,
}

/// Splitmix64: enough to be surprised by.
struct Dice(u64);

impl Maker {
    /// Makes the series of requests number `series`.
    pub(super) fn new(series: u64) -> Self {
        let roles = [&[Role::User][..], &[Role::User], &[Role::Readonly], &[Role::Admin], &[]];
        let people = (1..).zip(roles).map(|(id, roles)| (id, token(id, roles))).collect();
        Self { dice: Dice(series), people, service: None }
    }

    /// The same for the service at `path`.
    pub(super) fn at_service(path: &'static str, series: u64) -> Self {
        Self { service: Some(path), ..Self::new(series) }
    }

    /// The next one.
    pub(super) fn make(&mut self) -> Made {
        let operation = match self.service {
            None => *self.dice.pick(&Operation::ALL),
            // Which stand for a read and for a write.
            Some(_) => *self.dice.pick(&[Operation::RecallMemories, Operation::RememberMemory]),
        };
        let (method, path) = self.place(operation);
        let (who, mut fields) = self.credential(operation);
        let takes_none = operation.takes() == Takes::Nothing;
        let body = (takes_none == self.dice.one_in(40)).then_some("{}");
        let mut trailers = Vec::new();
        if body.is_some() {
            fields.push(field("Content-Type", "application/json"));
            if self.dice.one_in(3) {
                self.plant(&mut trailers);
            }
        }
        for _ in 0..=self.dice.below(5) {
            self.plant(&mut fields);
        }
        self.connect(&mut fields);
        let fails = if self.dice.one_in(40) { "&fails=once" } else { "" };
        Made { method, target: format!("{path}?who={who}{fails}"), fields, body, trailers }
    }

    /// Where `operation` is, most of the time.
    fn place(&mut self, operation: Operation) -> (&'static str, String) {
        let path = self.service.unwrap_or(operation.path());
        let path = path.replace("{username}", "somebody").replace("{user_id}", "7");
        match self.dice.below(30) {
            0 => ("DELETE", path),
            1 => ("OPTIONS", path),
            2 => (operation.method(), format!("/internal{path}")),
            3 => (operation.method(), format!("{path}/..")),
            4 => ("HEAD", path),
            _ => (operation.method(), path),
        }
    }

    /// A credential, or what passes for one; and whose it is, as far as `operation` asks.
    fn credential(&mut self, operation: Operation) -> (i64, Vec<(String, String)>) {
        let (id, token) = self.dice.pick(&self.people).clone();
        let bearer = |token: &str| field("Authorization", &format!("Bearer {token}"));
        let fields = match (operation.demands(), self.dice.below(20)) {
            (_, 0) => vec![],
            (_, 1) => vec![bearer("planted")],
            (_, 2) => vec![bearer(&token), field("X-API-Key", "mk_planted")],
            (_, 3) => vec![bearer(&token), bearer(&token)],
            (_, 4) => vec![field("X-API-Key", "mk_planted")],
            (Demands::Refresh, _) => vec![bearer("mrt_AAAA")],
            (Demands::Access | Demands::Nothing, _) => vec![bearer(&token)],
        };
        (if operation.demands() == Demands::Access { id } else { 0 }, fields)
    }

    /// Adds a field by which the client says who it is, once or twice.
    fn plant(&mut self, fields: &mut Vec<(String, String)>) {
        let name = *self.dice.pick(&NAMES);
        for _ in 0..=usize::from(self.dice.one_in(4)) {
            let value = *self.dice.pick(&["planted", "1, planted", "for=planted;proto=https"]);
            fields.push((self.spell(name), value.to_owned()));
        }
    }

    /// Asks for more of the connection than it is for.
    fn connect(&mut self, fields: &mut Vec<(String, String)>) {
        match self.dice.below(12) {
            0 => fields.push(field("Connection", "keep-alive, x-memoric-assertion")),
            1 => fields.push(field("Connection", "x-request-id, host, keep-alive")),
            2 => {
                let name = *self.dice.pick(&NAMES);
                fields.push(field("Connection", &self.spell(name)));
            }
            3 => {
                let protocol = *self.dice.pick(&["websocket", "h2c", "planted/1"]);
                fields.push(field("Upgrade", protocol));
                fields.push(field("Connection", "Upgrade"));
            }
            _ => {}
        }
    }

    /// The same name to a server that does not look too closely.
    fn spell(&mut self, name: &str) -> String {
        let style = self.dice.below(4);
        let letter = |letter: char| match (style, letter) {
            (0, letter) => letter,
            (1, '-') => '_',
            (_, '-') => *self.dice.pick(&['-', '-', '_']),
            (_, letter) if self.dice.one_in(2) => letter.to_ascii_uppercase(),
            (_, letter) => letter.to_ascii_lowercase(),
        };
        name.chars().map(letter).collect()
    }
}

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, sides: u64) -> u64 {
        self.roll() % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.below(sides) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let sides = u64::try_from(of.len()).expect("not so many");
        &of[usize::try_from(self.below(sides)).expect("below its length")]
    }
}

fn field(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// Names by which proxies tell servers who somebody is, and some that nobody knows.
const NAMES: [&str; 54] = [
    "CF-Access-Authenticated-User-Email",
    "CF-Connecting-IP",
    "Client-IP",
    "Fastly-Client-IP",
    "Forwarded",
    "Proxy",
    "Remote-Addr",
    "Remote-Email",
    "Remote-Groups",
    "Remote-Name",
    "Remote-User",
    "Tailscale-User-Login",
    "True-Client-IP",
    "Via",
    "X-Amzn-Oidc-Identity",
    "X-Anything-Else",
    "X-Auth-Request-Email",
    "X-Auth-Request-User",
    "X-Authenticated-User",
    "X-Client-Cert",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Consumer-Username",
    "X-Credential-Identifier",
    "X-Email",
    "X-Envoy-External-Address",
    "X-Forwarded-Email",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-User",
    "X-Goog-Authenticated-User-Id",
    "X-Groups",
    "X-HTTP-Method-Override",
    "X-Host",
    "X-Identity",
    "X-JWT-Payload",
    "X-MS-Client-Principal-Id",
    "X-Memoric-Assertion",
    "X-Memoric-Owner",
    "X-Namespace",
    "X-Original-URL",
    "X-Pomerium-Claim-Email",
    "X-Real-IP",
    "X-Remote-User",
    "X-Request-Id",
    "X-Rewrite-URL",
    "X-Role",
    "X-Roles",
    "X-SSL-Client-S-DN",
    "X-Scope-OrgID",
    "X-Tenant-Id",
    "X-User-Id",
    "X-UserId",
];

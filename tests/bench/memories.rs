//! What it costs to store a memory and to recall some, and what PostgreSQL takes for the bare rows.

use harness::{DATABASE_PASSWORD, Person, SUPERUSER_PASSWORD};
use memoric_config::ExposeSecret as _;
use serde_json::json;
use tokio_postgres::Client as Session;

use crate::{
    contest::{Contestant, Measured, Plan, Series, contest},
    cpu::Watched,
    load::{Requests, Transactions, script},
    site::Site,
    table::{Goal, Ratio, Table},
};

/// Measures Memoric from its gateway to PostgreSQL's disk, and `pgbench` on the same server.
pub async fn measure(site: &Site, person: &Person, plan: Plan, table: &mut Table) {
    let body = json!({
        "content": CONTENT, "thread_id": "kitchen",
        "metadata": {"topic": "food", "importance": "high"},
    });
    site.post("/memories", Some(&person.token), &body).await;
    let bench = Bench::new(site, person).await;
    let postgres = Watched::postgres(&site.servers.postgres());
    let (backend, gateway) = (Watched::process(&site.backend), Watched::process(&site.gateway));
    let (bare, call) = (bench.bare_rows().await, bench.same_call().await);
    let store = requests(site, person, "/memories", Some(body.to_string()));

    let stored = contest(
        plan,
        [
            Contestant::new(&[postgres], |seconds| bare.run(seconds)).after(|| bare.begin()),
            Contestant::new(&[postgres], |seconds| call.run(seconds)).after(|| call.begin()),
            Contestant::new(&[postgres, backend, gateway], |seconds| store.run(seconds, true)),
        ],
    );
    tell_stored(&stored, table);

    let reader = site.register("reader").await;
    for number in 0..OWNED {
        let importance = ["low", "medium", "high"][number % 3];
        let memory = json!({
            "content": format!("{CONTENT} {number}"), "metadata": {"importance": importance},
        });
        site.post("/memories", Some(&reader.token), &memory).await;
    }
    let bare = bench.bare_recall(&reader).await;
    let recall = requests(site, &reader, "/memories?top_k=20", None);
    let recalled = contest(
        plan,
        [
            Contestant::new(&[postgres], |seconds| bare.run(seconds)).after(|| bare.begin()),
            Contestant::new(&[postgres, backend, gateway], |seconds| recall.run(seconds, true)),
        ],
    );
    tell_recalled(&recalled, table);
}

/// What `pgbench` finds in the database: rows like those of Memoric, without what protects them.
struct Bench<'a> {
    site: &'a Site,
    superuser: Session,
    owner: i64,
}

impl<'a> Bench<'a> {
    async fn new(site: &'a Site, person: &Person) -> Self {
        let superuser = site.servers.superuser(&site.database).await;
        superuser.batch_execute(include_str!("pgbench.sql")).await.expect("the superuser may");
        Self { site, superuser, owner: person.id }
    }

    /// A row of a memory and a row of the trail, like the last ones that Memoric has written, with
    /// the same indices, in one round trip. No policy, no context, no function, no id remembered.
    async fn bare_rows(&self) -> Transactions {
        let memory = self.text("SELECT bench.memory_values()").await;
        let record = self.text("SELECT bench.trail_values()").await;
        let statement = format!(
            "\\startpipeline
             BEGIN;
             INSERT INTO bench.memories VALUES ({memory});
             INSERT INTO bench.trail VALUES ({record});
             COMMIT;
             \\endpipeline\n"
        );
        self.transactions("bare.sql", &statement, "postgres")
    }

    /// The statement of the backend, in its role, with a context of its own for each connection.
    async fn same_call(&self) -> Transactions {
        let arguments = self.text("SELECT bench.remember_arguments()").await;
        let owner = self.owner;
        let statement = format!(
            "\\if :signed
             \\else
             SELECT bench.context({owner}) AS context \\gset
             \\set signed 1
             \\endif
             SELECT memoric.remember(:context, {arguments}) FROM bench.request;\n"
        );
        self.transactions("call.sql", &statement, "memoric_app")
    }

    /// Twenty rows of `reader` in the order of the index, from where nothing hides them.
    async fn bare_recall(&self, reader: &Person) -> Transactions {
        let copy = "INSERT INTO bench.memories SELECT * FROM memoric.memories WHERE user_id = $1";
        self.superuser.execute(copy, &[&reader.id]).await.expect("they are alike");
        // As autovacuum would have by then.
        self.superuser.batch_execute("ANALYZE").await.expect("the superuser may");
        let statement = format!(
            "SELECT * FROM bench.memories WHERE user_id = {} AND NOT summarized
             ORDER BY importance, seen, updated_at DESC, id DESC LIMIT 20;\n",
            reader.id
        );
        self.transactions("recall.sql", &statement, "postgres")
    }

    fn transactions(&self, name: &str, statement: &str, role: &str) -> Transactions {
        let derived = || {
            let password = memoric_backend::role_password(DATABASE_PASSWORD.as_bytes(), role);
            password.expose_secret().to_owned()
        };
        Transactions {
            script: script(self.site.folder(), name, statement),
            server: self.site.servers.postgres(),
            database: self.site.database.clone(),
            role: role.to_owned(),
            password: if role == "postgres" { SUPERUSER_PASSWORD.to_owned() } else { derived() },
            clients: CLIENTS,
        }
    }

    async fn text(&self, question: &str) -> String {
        self.superuser.query_one(question, &[]).await.expect("it is there").get(0)
    }
}

fn requests(site: &Site, person: &Person, path: &str, body: Option<String>) -> Requests {
    let url = format!("https://{}{path}", site.https);
    Requests { url, token: Some(person.token.clone()), body, clients: CLIENTS }
}

fn tell_stored([bare, call, memoric]: &[Measured; 3], table: &mut Table) {
    let what = "store a memory";
    let [postgres, backend, gateway] = memoric.cpu.as_slice() else { panic!("three of them") };
    let (bare_cpu, call_cpu) = (&bare.cpu[0], &call.cpu[0]);
    let to = |one: &Series, other: &Series, name| Ratio::new(one.over(other), name);

    table.cpu(what, "PostgreSQL: two bare rows by pgbench", bare_cpu, &[]);
    table.cpu(
        what,
        "PostgreSQL: Memoric's statement by pgbench",
        call_cpu,
        &[to(call_cpu, bare_cpu, "bare rows")],
    );
    table.cpu(
        what,
        "PostgreSQL: under Memoric",
        postgres,
        &[
            to(postgres, bare_cpu, "bare rows").goal(Goal::AtMost(1.25)),
            to(postgres, call_cpu, "its statement"),
        ],
    );
    table.cpu_within(what, "backend", backend, Goal::AtMost(60.0));
    table.cpu(what, "gateway", gateway, &[]);
    let rates = to(&memoric.rate, &bare.rate, "bare rows").goal(Goal::AtLeast(0.60));
    table.row("memories per second", "Memoric, end to end", "", &[rates]);
}

fn tell_recalled([bare, memoric]: &[Measured; 2], table: &mut Table) {
    let what = format!("recall 20 of {OWNED}");
    let [postgres, backend, gateway] = memoric.cpu.as_slice() else { panic!("three of them") };
    table.cpu(&what, "PostgreSQL: twenty bare rows by pgbench", &bare.cpu[0], &[]);
    let to_bare = Ratio::new(postgres.over(&bare.cpu[0]), "bare rows");
    table.cpu(&what, "PostgreSQL: under Memoric", postgres, &[to_bare]);
    table.cpu(&what, "backend", backend, &[]);
    table.cpu(&what, "gateway", gateway, &[]);
}

/// A memory of the usual length.
const CONTENT: &str =
    "Prefers oat milk over soy, is allergic to hazelnuts, and cooks for four on most evenings.";

/// How many memories are recalled from.
const OWNED: usize = 1000;

/// How many ask at once.
const CLIENTS: usize = 16;

//! A logout is heard by every gateway within a second, whatever Redis does, and nobody comes back.

use std::time::{Duration, Instant};

use harness::{Door, Person, Recipe, Redis, RedisRecipe, World, certificate, until};
use memoric_config::{
    Environment, Settings,
    redis::Redis as Client,
    schema::{self, Check},
};
use reqwest::{Method, RequestBuilder, StatusCode};
use tokio::time::sleep;

/// Several gateways, somebody who stays, and everybody who has left.
struct Site {
    world: World,
    others: Vec<(&'static str, Door)>,
    stays: Person,
    ended: Vec<Person>,
}

#[tokio::test]
async fn a_logout_is_heard_everywhere_whatever_redis_does() {
    let mut redis = RedisRecipe::on_a_socket()
        .with(&["--save", "", "--maxmemory-policy", "allkeys-lru"])
        .start()
        .await;
    let url = redis.url();
    let mut site = Site::start(World::with(move |settings| place(settings, &url))).await;
    let nowhere = "redis+unix:///tmp/nowhere/redis.sock";
    let split = site.world.door(|settings| settings.redis.url = nowhere.to_owned()).await;
    site.others.push(("split from redis", split));

    site.log_out("all is well").await;
    let kept = redis.ask::<Vec<String>>(&["KEYS", "memoric:revoked:*:sid:*"]).await;
    assert_eq!(kept.len(), 1, "{kept:?}");
    let life = redis.ask::<i64>(&["TTL", &kept[0]]).await;
    let told = "for as long as any token of it could live, rounded up to whole seconds";
    assert!((1..=25 * 3600 + 1).contains(&life), "{told}: {life}");

    redis.ask::<()>(&["FLUSHALL"]).await;
    site.log_out("flushed").await;

    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    site.log_out("evicting").await;
    assert_eq!(redis.ask::<i64>(&["DBSIZE"]).await, 0, "all of it is evicted");
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;

    redis.freeze();
    site.log_out("frozen").await;
    redis.thaw();
    site.log_out("thawed").await;

    redis.kill();
    site.log_out("killed").await;
    redis.restart().await;
    site.log_out("restarted empty").await;

    let superuser = site.world.superuser().await;
    superuser.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    site.log_out("a transaction is open").await;
    redis.kill();
    site.log_out("a transaction is open, and redis is gone").await;
    superuser.batch_execute("COMMIT").await.unwrap();
    site.log_out("the transaction is over").await;
}

#[tokio::test]
async fn a_failover_that_loses_a_write_brings_nobody_back() {
    let tls = certificate();
    let server = || {
        RedisRecipe::by_tls(tls.path())
            .with(&["--save", "", "--requirepass", ADMIN, "--masterauth", ADMIN])
            .administered_by("default", ADMIN)
    };
    let mut master = server().start().await;
    let port = master.port().to_string();
    let replica = server().with(&["--replicaof", "127.0.0.1", &port]).start().await;
    for redis in [&master, &replica] {
        let user = format!("on >{MEMORIC} ~memoric:* resetchannels &memoric:* -@all {NEEDED}");
        let rules = ["ACL", "SETUSER", "memoric"].into_iter().chain(user.split(' '));
        redis.ask::<()>(&rules.collect::<Vec<_>>()).await;
    }
    until("the replica is in step", async || {
        replica.ask::<String>(&["INFO", "replication"]).await.contains("master_link_status:up")
    })
    .await;
    let sentinel = RedisRecipe::by_tls(tls.path())
        .sentinel(&format!(
            "requirepass {SENTINEL}\nsentinel monitor mine 127.0.0.1 {port} 1\nsentinel auth-pass mine {ADMIN}\n\
             sentinel down-after-milliseconds mine 500\nsentinel failover-timeout mine 3000\n"
        ))
        .administered_by("default", SENTINEL)
        .start()
        .await;
    until("the sentinel knows both", async || {
        sentinel.ask::<Vec<redis::Value>>(&["SENTINEL", "REPLICAS", "mine"]).await.len() == 1
    })
    .await;

    let file = |name| Some(tls.path().join(name));
    let settings = schema::Redis {
        prefix: "memoric:".to_owned(),
        sentinels: vec![sentinel.url()],
        master: Some("mine".to_owned()),
        user: Some("memoric".to_owned()),
        ca: file("certificate.pem"),
        certificate: file("certificate.pem"),
        key: file("key.pem"),
        ..schema::Redis::default()
    };
    only_by_tls_and_password(&settings).await;
    let passwords = PASSWORDS.iter();
    let world = World::with(move |all| all.redis = settings);
    let world = passwords.fold(world, |world, (name, password)| world.variable(name, password));
    let mut site = Site::start(world).await;
    site.until_told("the master", async || size(&master).await > 0).await;

    replica.ask::<()>(&["CONFIG", "SET", "masterauth", "nonsense"]).await;
    replica.ask::<i64>(&["CLIENT", "KILL", "TYPE", "master"]).await;
    until("the replica has lost touch", async || {
        replica.ask::<String>(&["INFO", "replication"]).await.contains("master_link_status:down")
    })
    .await;
    let before = size(&replica).await;
    site.log_out("the replica has lost touch").await;
    assert!(size(&master).await > before, "the master has acknowledged it");
    master.kill();
    site.log_out("the master is gone").await;
    until("the replica is the master", async || {
        site.ensure_nobody_is_back("failing over").await;
        replica.ask::<String>(&["INFO", "replication"]).await.contains("role:master")
    })
    .await;
    assert_eq!(size(&replica).await, before, "what was acknowledged is lost");
    site.until_told("the new master", async || size(&replica).await > before).await;
}

#[tokio::test]
async fn a_cluster_carries_revocations_and_may_lose_a_node() {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let bus = harness::free_address().port().to_string();
        let node = RedisRecipe::on_a_port().with(&["--save", "", "--cluster-enabled", "yes"]);
        let node = node.with(&["--cluster-port", &bus, "--cluster-node-timeout", "2000"]);
        nodes.push((node.start().await, bus));
    }
    for ((node, bus), slots) in
        nodes.iter().zip([["0", "5460"], ["5461", "10922"], ["10923", "16383"]])
    {
        node.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]).await;
        let port = node.port().to_string();
        nodes[0].0.ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, bus]).await;
    }
    let mut nodes: Vec<Redis> = nodes.into_iter().map(|(node, _)| node).collect();
    for node in &nodes {
        until("the cluster is whole", async || {
            let told = node.ask::<String>(&["CLUSTER", "INFO"]).await;
            told.contains("cluster_state:ok") && told.contains("cluster_known_nodes:3")
        })
        .await;
    }
    let urls: Vec<_> = nodes.iter().map(Redis::url).collect();
    let world = World::with(move |settings| {
        settings.redis.prefix = "memoric:".to_owned();
        settings.redis.url = schema::Redis::default().url;
        settings.redis.cluster = urls;
    });
    let mut site = Site::start(world).await;
    let all = async |nodes: &[Redis]| {
        let mut sizes = 0;
        for node in nodes {
            sizes += size(node).await;
        }
        sizes
    };
    site.until_told("the cluster", async || all(&nodes).await > 0).await;

    for (number, node) in nodes.iter().enumerate() {
        let told = site.world.register(&format!("told-{number}")).await;
        let message = format!("revoked:{{{}}}:gen 2 4102444800", told.id);
        until("every gateway listens at every node", async || {
            node.ask::<i64>(&["PUBLISH", "memoric:revocations", &message]).await;
            let mut is_refused = true;
            for (_, request) in site.requests(&told) {
                is_refused &= verdict(request).await == StatusCode::UNAUTHORIZED;
            }
            is_refused
        })
        .await;
    }

    nodes[2].kill();
    site.log_out("a node is gone").await;
    nodes[1].freeze();
    site.log_out("another is frozen").await;
    nodes[1].thaw();
}

#[tokio::test]
async fn asked_for_every_request_redis_says_no_or_the_backend_is_asked() {
    let mut redis = RedisRecipe::on_a_socket().with(&["--save", ""]).start().await;
    let url = redis.url();
    let site = Site::start(World::with(move |settings| place(settings, &url))).await;
    let (_, lookup) = site.others.iter().find(|(name, _)| *name == "looks it up").unwrap();
    let ask =
        async |person: &Person| verdict(lookup.ask_as(person, Method::GET, "/memories")).await;
    let alice = site.world.log_in("alice").await;
    let key = format!("memoric:revoked:{{{}}}:gen", alice.id);
    until("redis answers", async || {
        redis.ask::<()>(&["SET", &key, "2"]).await;
        ask(&alice).await == StatusCode::UNAUTHORIZED
    })
    .await;

    let by_list = verdict(site.world.ask_as(&alice, Method::GET, "/memories")).await;
    assert_eq!(by_list, StatusCode::OK, "who does not look it up knows nothing of it");

    redis.ask::<i64>(&["DEL", &key]).await;
    assert_eq!(ask(&alice).await, StatusCode::OK);
    // Something that no list will ever tell of.
    let quietly = "UPDATE memoric.sessions SET ended_at = now() WHERE user_id = $1";
    site.world.superuser().await.execute(quietly, &[&alice.id]).await.unwrap();
    assert_eq!(ask(&alice).await, StatusCode::OK, "redis answers, so the backend is not asked");
    redis.ask::<()>(&["SET", &key, "nonsense"]).await;
    assert_eq!(ask(&alice).await, StatusCode::UNAUTHORIZED, "a wrong answer");
    assert_eq!(ask(&site.stays).await, StatusCode::OK);
    redis.ask::<i64>(&["DEL", &key]).await;
    redis.freeze();
    assert_eq!(ask(&alice).await, StatusCode::UNAUTHORIZED, "no answer");
    assert_eq!(ask(&site.stays).await, StatusCode::OK);
    redis.kill();
    assert_eq!(ask(&alice).await, StatusCode::UNAUTHORIZED, "nobody there");
    assert_eq!(ask(&site.stays).await, StatusCode::OK);
}

#[tokio::test]
async fn of_two_backends_that_end_a_users_generations_the_higher_stays_in_redis() {
    let redis = RedisRecipe::on_a_socket().with(&["--save", ""]).start().await;
    let url = redis.url();
    let world = World::with(move |settings| place(settings, &url)).start().await;
    world.register("alice").await;
    let end = async || {
        let alice = world.log_in("alice").await;
        let ended = world.ask_as(&alice, Method::POST, "/auth/logout-all").send().await.unwrap();
        assert_eq!(ended.status(), StatusCode::OK);
        format!("memoric:revoked:{{{}}}:gen", alice.id)
    };
    let key = end().await;
    let kept = async || redis.ask::<Option<String>>(&["GET", &key]).await;
    until("redis is told", async || kept().await.as_deref() == Some("2")).await;

    // As another backend that was before this one, and one that was ahead of it, and heard first.
    redis.ask::<()>(&["SET", &key, "1", "EX", "10"]).await;
    end().await;
    assert_eq!(kept().await.as_deref(), Some("3"), "a lower one gives way");
    redis.ask::<()>(&["SET", &key, "9", "EX", "200000"]).await;
    end().await;

    assert_eq!(kept().await.as_deref(), Some("9"));
    let life = redis.ask::<i64>(&["TTL", &key]).await;
    assert!(life > 190_000, "nor is its life shortened: {life}");
    redis.ask::<()>(&["SET", &key, "10", "EX", "10"]).await;
    end().await;
    assert_eq!(kept().await.as_deref(), Some("10"));
    let life = redis.ask::<i64>(&["TTL", &key]).await;
    assert!(life > 24 * 3600, "but for as long as the later of the two matters: {life}");
}

#[tokio::test]
async fn who_waits_in_vain_for_redis_takes_no_connection_from_others() {
    let redis = RedisRecipe::on_a_socket().start().await;
    let settings = schema::Redis { url: redis.url(), ..Default::default() };
    let client = Client::new(&settings, &Environment::default()).unwrap();
    let connection = async || {
        let asked = [redis::cmd("CLIENT").arg("ID").to_owned()];
        client.ask(&asked, Duration::from_secs(10)).await.unwrap()
    };
    let first = connection().await;
    let block = [redis::cmd("BLPOP").arg("nothing").arg(0).to_owned()];

    let in_vain = client.ask(&block, Duration::from_millis(800));
    let others = async {
        sleep(Duration::from_millis(50)).await;
        assert!(
            client.ping(Duration::from_millis(50)).await.is_err(),
            "it stands behind the other"
        );
        connection().await
    };
    let (in_vain, second) = tokio::join!(in_vain, others);

    assert!(in_vain.is_err());
    assert_ne!(first, second, "a connection that answers nobody is given up");
    assert_eq!(connection().await, second, "and the one after it is not");
}

#[tokio::test]
async fn what_would_lose_revocations_is_told_by_check() {
    let recipe = Recipe::new().await;

    for program in ["memoric-backend", "memoric-gateway"] {
        let checked = recipe.program(program).args(["check"]).run();
        let told = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(told.contains("appendonly is off"), "{program}: {told}");
        assert!(told.contains("revocation.check = \"list\" (default)"), "{program}: {told}");
    }
}

impl Site {
    /// The gateway of `world`, another that keeps a list, and one that asks Redis for every request.
    async fn start(world: harness::WorldBuilder) -> Self {
        let world = world.start().await;
        let stays = world.register("stays").await;
        world.register("alice").await;
        let lists = world.door(|_| {}).await;
        let looks_up = world.door(|settings| settings.revocation.check = Check::Lookup).await;
        let others = vec![("keeps a list", lists), ("looks it up", looks_up)];
        Self { world, others, stays, ended: Vec::new() }
    }

    /// Logs somebody out by the first gateway, and holds every gateway to its word: whoever carried it
    /// refuses them at once, and nobody lets in a request that is sent a second later.
    async fn log_out(&mut self, case: &str) {
        let leaves = self.world.log_in("alice").await;
        for (name, request) in self.requests(&leaves) {
            assert_eq!(verdict(request).await, StatusCode::OK, "{case}: {name}");
        }

        let logout = self.world.ask_as(&leaves, Method::POST, "/auth/logout");
        let answer = logout.timeout(Duration::from_secs(20)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{case}");
        let answered = Instant::now();
        let me = self.world.ask_as(&leaves, Method::GET, "/auth/me").send().await.unwrap();
        assert_eq!(me.status(), StatusCode::UNAUTHORIZED, "{case}: at once");

        for (name, door) in &self.others {
            loop {
                let is_due = answered.elapsed() >= Duration::from_secs(1);
                let asked = door.ask_as(&leaves, Method::GET, "/auth/me").send().await.unwrap();
                match asked.status() {
                    StatusCode::UNAUTHORIZED => break,
                    StatusCode::OK => assert!(!is_due, "{case}: let in a second later: {name}"),
                    _ => assert!(answered.elapsed() < PATIENCE, "{case}: no verdict: {name}"),
                }
                sleep(Duration::from_millis(5)).await;
            }
        }
        self.ended.push(leaves);
        self.ensure_nobody_is_back(case).await;
    }

    /// Whoever has left stays outside, and who stays is let in.
    async fn ensure_nobody_is_back(&self, case: &str) {
        for person in &self.ended {
            for (name, request) in self.requests(person) {
                let status = verdict(request).await;
                assert_eq!(status, StatusCode::UNAUTHORIZED, "{case}: {name}");
            }
        }
        for (name, request) in self.requests(&self.stays) {
            assert_eq!(verdict(request).await, StatusCode::OK, "{case}: {name}");
        }
    }

    /// Logs people out until `is_told` that Redis knows of one.
    async fn until_told(&mut self, whom: &str, is_told: impl AsyncFn() -> bool) {
        let began = Instant::now();
        while !is_told().await {
            assert!(began.elapsed() < PATIENCE, "{whom} is told nothing");
            self.log_out(whom).await;
        }
    }

    /// A request of `person` to each gateway.
    fn requests(&self, person: &Person) -> Vec<(&'static str, RequestBuilder)> {
        let first = self.world.ask_as(person, Method::GET, "/auth/me");
        let others = self
            .others
            .iter()
            .map(|(name, door)| (*name, door.ask_as(person, Method::GET, "/auth/me")));
        [("the first", first)].into_iter().chain(others).collect()
    }
}

/// What comes of `request`. A gateway that can ask nobody lets nobody in, and on a busy machine that
/// happens; it has not decided then.
async fn verdict(request: RequestBuilder) -> StatusCode {
    let began = Instant::now();
    loop {
        let asked = request.try_clone().unwrap().timeout(Duration::from_secs(20));
        match asked.send().await.unwrap().status() {
            StatusCode::SERVICE_UNAVAILABLE if began.elapsed() < PATIENCE => {
                sleep(Duration::from_millis(50)).await;
            }
            status => return status,
        }
    }
}

/// Whoever is not signed by whom the settings name is not spoken to, and who has no certificate or
/// another password is not let in.
async fn only_by_tls_and_password(settings: &schema::Redis) {
    let reaches = async |settings: schema::Redis, passwords: [(&str, &str); 2]| {
        let redis = Client::new(&settings, &Environment::from_iter(passwords)).unwrap();
        redis.ping(Duration::from_secs(10)).await.is_ok()
    };
    assert!(reaches(settings.clone(), PASSWORDS).await);
    let stranger = certificate();
    let ca = Some(stranger.path().join("certificate.pem"));
    assert!(!reaches(schema::Redis { ca, ..settings.clone() }, PASSWORDS).await);
    let nothing = schema::Redis { certificate: None, key: None, ..settings.clone() };
    assert!(!reaches(nothing, PASSWORDS).await);
    for (number, wrong) in [(0, (PASSWORDS[0].0, ADMIN)), (1, (PASSWORDS[1].0, ADMIN))] {
        let mut passwords = PASSWORDS;
        passwords[number] = wrong;
        assert!(!reaches(settings.clone(), passwords).await, "{wrong:?}");
    }
}

fn place(settings: &mut Settings, url: &str) {
    settings.redis.url = url.to_owned();
    settings.redis.prefix = "memoric:".to_owned();
}

async fn size(redis: &Redis) -> i64 {
    redis.ask(&["DBSIZE"]).await
}

const PATIENCE: Duration = Duration::from_secs(40);

/// The passwords of the operator, of Memoric, and of whoever asks the sentinel.
const ADMIN: &str = "an-operators-password";
const MEMORIC: &str = "memorics-own-password";
const SENTINEL: &str = "a-sentinels-password";

const PASSWORDS: [(&str, &str); 2] =
    [("MEMORIC_REDIS_PASSWORD", MEMORIC), ("MEMORIC_REDIS_SENTINEL_PASSWORD", SENTINEL)];

/// All that Memoric's user needs to be allowed.
const NEEDED: &str = "+eval +get +set +ttl +mget +publish +subscribe +ping +info +role";

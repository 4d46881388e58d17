//! Accounts are admins' to give and change, and passwords their owners' to choose; guesses at them cost time.

mod guesses;
mod passwords;

use harness::{PASSWORD, Person, Recipe, Servers, World, until};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

#[tokio::test]
async fn an_admin_makes_shows_lists_and_changes_accounts() {
    let (world, root) = rooted().await;
    let wanted = json!({
        "username": "Carol", "email": "Carol@Example.com", "password": PASSWORD, "full_name": "Carol C.",
        "namespace": "staff", "roles": ["user", "readonly"],
    });

    let made = send(&world, &root, Method::POST, "/users", &wanted).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    let made: Value = made.json().await.unwrap();
    let path = format!("/users/{}", made["id"]);
    let shown: Value = get(&world, &root, &path).await.json().await.unwrap();
    assert_eq!(shown, made, "no token, for she has a password");
    assert_eq!(
        (&made["username"], &made["email"], &made["namespace"], &made["roles"]),
        (
            &json!("carol"),
            &json!("carol@example.com"),
            &json!("staff"),
            &json!(["user", "readonly"])
        )
    );
    assert!(made.get("password_hash").is_none());
    world.log_in("carol").await;

    let change = json!({"roles": ["readonly"], "namespace": null, "is_active": false});
    let changed = send(&world, &root, Method::PATCH, &path, &change).await;
    assert_eq!(changed.status(), StatusCode::OK);
    let changed: Value = changed.json().await.unwrap();
    assert_eq!(
        (&changed["roles"], &changed["namespace"], &changed["is_active"]),
        (&json!(["readonly"]), &Value::Null, &json!(false))
    );
    assert_eq!(world.try_log_in("carol", PASSWORD).await.status(), StatusCode::UNAUTHORIZED);

    for taken in [
        json!({"username": "CAROL", "email": "other@example.com", "password": PASSWORD}),
        json!({"username": "other", "email": "carol@EXAMPLE.com", "password": PASSWORD}),
    ] {
        let refused = send(&world, &root, Method::POST, "/users", &taken).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{taken}");
    }
}

#[tokio::test]
async fn a_list_of_accounts_comes_page_by_page_and_its_cursor_is_ours_alone() {
    let (world, root) = rooted().await;
    for name in ["alice", "bob", "carol", "dave"] {
        world.register(name).await;
    }

    let (mut names, mut query, mut cursors) = (Vec::new(), "limit=2".to_owned(), Vec::new());
    loop {
        let page: Value =
            get(&world, &root, &format!("/users?{query}")).await.json().await.unwrap();
        let users = page["users"].as_array().unwrap();
        assert!(users.len() <= 2);
        names.extend(users.iter().map(|user| user["username"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("limit=2&cursor={cursor}");
        cursors.push(cursor.to_owned());
    }

    assert_eq!(names, ["root", "alice", "bob", "carol", "dave"]);
    assert_eq!(cursors.len(), 2);
    let all: Value = get(&world, &root, "/users").await.json().await.unwrap();
    assert_eq!((all["users"].as_array().unwrap().len(), &all["next_cursor"]), (5, &Value::Null));
    let forged = cursors[0].replacen(|char: char| char.is_lowercase(), "Z", 1);
    for refused in [&*format!("cursor={forged}"), "cursor=1", "limit=0", "limit=1001", "limit=x"] {
        let answer = get(&world, &root, &format!("/users?{refused}")).await;
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
    }
}

#[tokio::test]
async fn every_change_ends_what_was_begun_and_is_on_record_with_whose_and_by_whom() {
    let (world, root) = rooted().await;
    let bob = world.register("bob").await;
    let path = format!("/users/{}", bob.id);
    let mut expected = Vec::new();

    for (change, events) in [
        (json!({"roles": ["readonly"]}), &["user.updated"][..]),
        (json!({"namespace": "staff"}), &["user.updated"]),
        (json!({"reset_password": true}), &["user.updated"]),
        (json!({"is_active": false}), &["user.deactivated"]),
        (json!({"is_active": true, "roles": ["user"]}), &["user.activated", "user.updated"]),
    ] {
        let before = world.try_log_in("bob", PASSWORD).await;
        let token = before.json::<Value>().await.unwrap()["access_token"].clone();

        let changed = send(&world, &root, Method::PATCH, &path, &change).await;

        assert_eq!(changed.status(), StatusCode::OK, "{change}");
        if let Some(token) = token.as_str() {
            let answer =
                world.ask(Method::GET, "/auth/me").bearer_auth(token).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{change}: at once");
        }
        expected.extend(events.iter().map(|event| format!("{event} {} {}", root.id, bob.id)));
    }

    let records = "SELECT concat_ws(' ', event_type, subject, owner) FROM audit.trail
                   WHERE operation = 'change_user' AND success ORDER BY id";
    let rows = world.superuser().await.query(records, &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn an_admin_is_one_for_as_long_as_the_database_says_so() {
    let (world, root) = rooted().await;
    let bob = world.register("bob").await;
    let path = format!("/users/{}", bob.id);
    let demote = "UPDATE memoric.users SET roles = '{user}' WHERE username = 'root'";
    world.superuser().await.batch_execute(demote).await.unwrap();

    let carol = json!({"username": "carol", "email": "carol@example.com", "password": PASSWORD});
    for answer in [
        get(&world, &root, "/users").await,
        get(&world, &root, &path).await,
        send(&world, &root, Method::POST, "/users", &carol).await,
        send(&world, &root, Method::PATCH, &path, &json!({"roles": ["admin"]})).await,
        send(&world, &root, Method::PATCH, &path, &json!({"is_active": false})).await,
    ] {
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{}", answer.url());
    }
    let state = "SELECT string_agg(username || array_to_string(roles, ',') || is_active || generation, ' ' ORDER BY id) FROM memoric.users";
    let state: String = world.superuser().await.query_one(state, &[]).await.unwrap().get(0);
    assert_eq!(state, "rootusertrue1 bobusertrue1");
    assert_eq!(world.recall(&bob).await.len(), 0, "his session goes on");
}

#[tokio::test]
async fn the_last_admin_who_is_let_in_is_not_locked_out() {
    let (world, root) = rooted().await;
    let other = world.person_with("other", &["admin"]).await;
    let change = async |who: &Person, whose: &Person, change: &Value| {
        let path = format!("/users/{}", whose.id);
        send(&world, who, Method::PATCH, &path, change).await
    };
    assert_eq!(change(&root, &other, &json!({"is_active": false})).await.status(), StatusCode::OK);

    for fatal in [
        json!({"is_active": false}),
        json!({"roles": ["user"]}),
        json!({"roles": []}),
        json!({"roles": ["admin"], "is_active": false}),
    ] {
        let refused = change(&root, &root, &fatal).await;
        assert_eq!(refused.status(), StatusCode::CONFLICT, "{fatal}");
        assert_eq!(refused.json::<Value>().await.unwrap()["code"], "last_admin");
    }
    let harmless = json!({"namespace": "staff", "roles": ["admin", "user"]});
    assert_eq!(change(&root, &root, &harmless).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn of_two_admins_who_unmake_each_other_one_is_left() {
    let (world, root) = rooted().await;
    let other = world.person_with("other", &["admin"]).await;
    let superuser = world.superuser().await;
    superuser.batch_execute("BEGIN; SELECT FROM memoric.users FOR UPDATE").await.unwrap();

    let mut both = JoinSet::new();
    for (who, whose) in [(&root, &other), (&other, &root)] {
        let asked = world.ask_as(who, Method::PATCH, &format!("/users/{}", whose.id));
        let asked = asked.json(&json!({"roles": ["user"]}));
        both.spawn(async move { asked.send().await.unwrap().status() });
    }
    // Each has seen that the other is an admin, if it is ever to look without holding on to it.
    let held_up = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'",
        world.database
    );
    let watcher = world.superuser().await;
    let both_wait = async || {
        let waiting = watcher.query_one(&held_up, &[]).await.unwrap();
        waiting.get::<_, i64>(0) >= 2
    };
    until("both are held up", both_wait).await;
    superuser.batch_execute("COMMIT").await.unwrap();

    let mut statuses = both.join_all().await;
    statuses.sort();
    assert_eq!(statuses, [StatusCode::OK, StatusCode::FORBIDDEN]);
    let left = "SELECT count(*) FROM memoric.users WHERE is_active AND 'admin' = ANY (roles)";
    let left: i64 = watcher.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 1, "somebody can undo it");
}

#[tokio::test]
async fn a_namespace_is_an_admins_to_give() {
    let (world, root) = rooted().await;
    let wanted = json!({
        "username": "mallory", "email": "mallory@example.com", "password": PASSWORD,
        "namespace": "staff", "roles": ["admin"], "is_active": true,
    });
    let made = world.ask(Method::POST, "/auth/register").json(&wanted).send().await.unwrap();
    let made: Value = made.json().await.unwrap();
    assert_eq!((&made["namespace"], &made["roles"]), (&Value::Null, &json!(["user"])));

    let mallory = world.log_in("mallory").await;
    for whose in [mallory.id, root.id] {
        let change = json!({"namespace": "staff", "roles": ["admin"]});
        let path = format!("/users/{whose}");
        let answer = send(&world, &mallory, Method::PATCH, &path, &change).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    }
    let given = json!({"namespace": "staff"});
    let path = format!("/users/{}", mallory.id);
    let changed = send(&world, &root, Method::PATCH, &path, &given).await;
    assert_eq!(changed.status(), StatusCode::OK);
    let mallory = world.log_in("mallory").await;
    let me: Value = get(&world, &mallory, "/auth/me").await.json().await.unwrap();
    assert_eq!(me["namespace"], "staff");
}

#[tokio::test]
async fn what_is_wrong_with_a_change_is_named_and_nothing_changes() {
    let (world, root) = rooted().await;
    let bob = world.register("bob").await;
    let path = format!("/users/{}", bob.id);
    for (change, field) in [
        (json!({}), "body"),
        (json!({"roles": ["king"]}), "roles"),
        (json!({"roles": "admin"}), "roles"),
        (json!({"is_active": "no"}), "is_active"),
        (json!({"is_active": true, "namespace": ""}), "namespace"),
        (json!({"is_active": true, "namespace": "a\u{0}b"}), "namespace"),
        (json!({"reset_password": 1}), "reset_password"),
    ] {
        let refused = send(&world, &root, Method::PATCH, &path, &change).await;
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY, "{change}");
        assert_eq!(refused.json::<Value>().await.unwrap()["errors"][0]["field"], field, "{change}");
    }
    for nobody in ["/users/4711", "/users/0", "/users/bob", "/users/-1"] {
        let change = json!({"is_active": false});
        for answer in [
            get(&world, &root, nobody).await,
            send(&world, &root, Method::PATCH, nobody, &change).await,
        ] {
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{nobody}");
        }
    }
    assert_eq!(world.recall(&bob).await.len(), 0, "his session goes on");
}

#[tokio::test]
async fn the_command_line_does_the_same() {
    let (world, root) = rooted().await;
    let bob = world.register("bob").await;
    let recipe = Recipe::on(Servers::get().await, world.database.clone());
    let run = |words: &[&str]| {
        let words = ["user"].into_iter().chain(words.iter().copied());
        let ended = recipe.program("memoric-backend").args(words).run();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).unwrap()
    };
    let shown = async || {
        let shown = get(&world, &root, &format!("/users/{}", bob.id)).await;
        shown.json::<Value>().await.unwrap()
    };

    run(&["set-namespace", "--user", "bob", "--namespace", "staff"]);
    assert_eq!(shown().await["namespace"], "staff");
    run(&["set-namespace", "--user", "bob", "--none"]);
    assert_eq!(shown().await["namespace"], Value::Null);
    run(&["deactivate", "--user", "bob"]);
    assert_eq!(shown().await["is_active"], false);
    run(&["activate", "--user", "bob"]);
    assert_eq!(shown().await["is_active"], true);
    let token = run(&["reset-password", "--user", "bob"]);
    let set = json!({"token": token.trim(), "new_password": "set-by-the-console"});
    let set = world.ask(Method::POST, "/auth/reset-password").json(&set).send().await.unwrap();
    assert_eq!(set.status(), StatusCode::OK);
    let answer = world.try_log_in("bob", "set-by-the-console").await;
    assert_eq!(answer.status(), StatusCode::OK);
}

/// A world with an admin in it.
async fn rooted() -> (World, Person) {
    let world = World::start().await;
    let root = world.person_with("root", &["admin"]).await;
    (world, root)
}

async fn get(world: &World, person: &Person, path: &str) -> Response {
    world.ask_as(person, Method::GET, path).send().await.unwrap()
}

async fn send(
    world: &World,
    person: &Person,
    method: Method,
    path: &str,
    body: &Value,
) -> Response {
    world.ask_as(person, method, path).json(body).send().await.unwrap()
}

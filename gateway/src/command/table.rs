//! Who may do what, as a person reads it.

use std::sync::Arc;

use memoric_contract::{Demands, Operation, Permission, Role};

use crate::{config::Route, routes::is_served};

/// Every permission, and which role has it.
pub(super) fn permissions() -> String {
    let roles = || Role::ALL.into_iter().rev();
    let head = std::iter::once("permission").chain(roles().map(Role::name)).map(str::to_owned);
    let rows = Permission::ALL.into_iter().map(|permission| {
        let has = |role: Role| if role.allows(permission) { "yes" } else { "no" };
        std::iter::once(permission.name()).chain(roles().map(has)).map(str::to_owned).collect()
    });
    aligned(std::iter::once(head.collect()).chain(rows).collect())
}

/// Every operation that is there, what a caller must be allowed, and what besides where it is about another user.
pub(super) fn operations(has_backend: bool) -> String {
    let head = ["operation", "request", "permission", "for another user"];
    let served = Operation::ALL.into_iter().filter(|each| is_served(*each, has_backend));
    let rows = served.map(|operation| {
        let request = format!("{} {}", operation.method(), operation.path());
        let besides = operation.needs_for_another().map_or("-", Permission::name);
        vec![operation.name().to_owned(), request, needs(operation), besides.to_owned()]
    });
    let head = head.map(str::to_owned).to_vec();
    aligned(std::iter::once(head).chain(rows).collect())
}

/// Every configured route, who answers there, and who may ask. Nothing where there are none.
pub(super) fn routes(routes: &[Arc<Route>]) -> String {
    let head = ["route", "methods", "roles", "body", "service"];
    let rows = routes.iter().map(|route| {
        let roles: Vec<_> = route.roles.iter().map(|role| role.name()).collect();
        let roles = if roles.is_empty() { "any role".to_owned() } else { roles.join(", ") };
        let (methods, body) = (route.methods.join(", "), route.body_bytes.to_string());
        vec![route.path.clone(), methods, roles, body, route.service.to_string()]
    });
    let rows: Vec<_> = rows.collect();
    match rows.is_empty() {
        true => String::new(),
        false => aligned([vec![head.map(str::to_owned).to_vec()], rows].concat()),
    }
}

fn needs(operation: Operation) -> String {
    let word = match (operation.demands(), operation.needs()) {
        (_, Some(permission)) => permission.name(),
        (Demands::Access, None) => "any role",
        (Demands::Refresh, None) => "a refresh token",
        (Demands::Nothing, None) => "none",
    };
    word.to_owned()
}

/// The rows, one on a line, each column as wide as its widest cell.
fn aligned(rows: Vec<Vec<String>>) -> String {
    let mut widths = Vec::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = cell.len().max(*width));
    }
    let line = |row: Vec<String>| {
        let cells = row.into_iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use memoric_config::schema;

    use super::*;
    use crate::config::tests::{route, written};

    #[test]
    fn a_route_is_told_with_who_may_ask_whom() {
        let roles = vec!["user".to_owned(), "admin".to_owned()];
        let written = schema::Route { roles, ..written("/tools") };

        let table = routes(&[route(written)]);

        assert_eq!(
            table,
            "route   methods    roles        body  service\n\
             /tools  GET, POST  user, admin  1024  127.0.0.1:9, in clear within this machine\n"
        );
        assert_eq!(routes(&[]), "");
    }

    #[test]
    fn the_tables_are_those_of_the_contract() {
        let expected = "\
permission        admin  user  readonly
memories:read     yes    yes   yes
memories:write    yes    yes   no
clusters:read     yes    yes   yes
keys:manage       yes    yes   no
policies:execute  yes    no    no
audit:read        yes    no    no
users:manage      yes    no    no
";
        assert_eq!(permissions(), expected);

        let operations = operations(true);
        let line = |name: &str| {
            let line = operations.lines().find(|line| line.starts_with(name)).unwrap();
            line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect::<Vec<_>>()
        };
        assert_eq!(operations.lines().count(), 1 + Operation::ALL.len());
        assert_eq!(
            line("recall_memories"),
            ["recall_memories", "GET /memories", "memories:read", "users:manage"]
        );
        assert_eq!(line("show_me"), ["show_me", "GET /auth/me", "any role", "-"]);
        assert_eq!(line("refresh"), ["refresh", "POST /auth/refresh", "a refresh token", "-"]);
        assert!(!super::operations(false).contains("login"), "there is nobody to log in with");
        assert_eq!(line("login"), ["login", "POST /auth/login", "none", "-"]);
    }
}

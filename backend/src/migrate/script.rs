//! One migration as it is written: a sentence, what it asks of the runner, and its SQL.

use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// One numbered step of the schema's history.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) number: i32,
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
    pub(super) runs_as: RunsAs,
    /// Whether it runs as it stands. It must then be one statement that can be run again.
    pub(super) is_bare: bool,
    /// Tables on which the owner must see every row.
    pub(super) lifts_force: Vec<&'static str>,
    /// What becomes of the rows of those tables.
    pub(super) rows: Rows,
    /// The least number that a program must have to serve what this leaves.
    pub(super) compatible_from: i32,
}

/// Who runs a migration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RunsAs {
    /// `memoric_owner`, which owns the tables.
    Owner,
    /// A superuser, by `database.admin`.
    Admin,
}

/// How many rows a migration on forced tables must have touched. As long as row-level security
/// is forced, an `UPDATE` of the owner's touches none and says nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rows {
    /// As many as before are there.
    Kept,
    /// And its statements touched each of them once.
    Every,
}

/// Why a file is not a migration.
#[derive(Debug, Error)]
#[error("migration {file}: {reason}")]
pub(crate) struct Malformed {
    file: String,
    reason: String,
}

impl Script {
    /// Reads the comment lines at the head of a file.
    pub(super) fn parse(file: &'static str, sql: &'static str) -> Result<Self, Malformed> {
        let malformed =
            |reason: &str| Malformed { file: file.to_owned(), reason: reason.to_owned() };
        let stem = file.strip_suffix(".sql").ok_or_else(|| malformed("is not SQL"))?;
        let (number, name) =
            stem.split_once('_').ok_or_else(|| malformed("is not NNNN_name.sql"))?;
        let number = number
            .parse()
            .ok()
            .filter(|_| number.len() == 4)
            .ok_or_else(|| malformed("has no number"))?;
        let (mut runs_as, mut script) = (None, Self::plain(number, name, sql));

        let mut head = sql.lines().map_while(|line| line.strip_prefix("--")).map(str::trim);
        head.next()
            .filter(|line| line.ends_with('.'))
            .ok_or_else(|| malformed("does not begin with what it makes true"))?;
        for line in head {
            match line.split_once(": ").unwrap_or((line, "")) {
                ("as", "owner") => runs_as = Some(RunsAs::Owner),
                ("as", "admin") => runs_as = Some(RunsAs::Admin),
                ("no-transaction", "") => script.is_bare = true,
                ("lifts-force", tables) => script.lifts_force = tables.split(", ").collect(),
                ("rows", "every") => script.rows = Rows::Every,
                ("rows", "kept") => script.rows = Rows::Kept,
                ("compatible-from", from) => {
                    script.compatible_from = from
                        .parse()
                        .map_err(|_| malformed("has no number behind compatible-from"))?;
                }
                (name @ ("as" | "no-transaction" | "rows"), _) => {
                    return Err(malformed(&format!("has a value behind {name} that is not known")));
                }
                _ => {}
            }
        }
        script.runs_as = runs_as.ok_or_else(|| malformed("does not say as whom it runs"))?;
        script.checked().map_err(malformed)
    }

    fn plain(number: i32, name: &'static str, sql: &'static str) -> Self {
        Self {
            number,
            name,
            sql,
            runs_as: RunsAs::Owner,
            is_bare: false,
            lifts_force: Vec::new(),
            rows: Rows::Kept,
            compatible_from: 0,
        }
    }

    fn checked(self) -> Result<Self, &'static str> {
        if self.is_bare && (!self.lifts_force.is_empty() || self.runs_as == RunsAs::Admin) {
            return Err("has no transaction in which to lift FORCE, or to be an admin");
        }
        if self.lifts_force.is_empty() && self.rows == Rows::Every {
            return Err("counts the rows of no table");
        }
        if self.lifts_force.iter().any(|table| !is_qualified(table)) {
            return Err("lifts FORCE from what is not schema.table");
        }
        if self.compatible_from > self.number {
            return Err("serves only programs that do not have it");
        }
        Ok(self)
    }

    /// What is remembered of its text.
    pub(super) fn checksum(&self) -> [u8; 32] {
        Sha256::digest(self.sql).into()
    }

    /// Its number and name, as the file has them.
    pub(super) fn title(&self) -> String {
        format!("{:04}_{}", self.number, self.name)
    }
}

fn is_qualified(table: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    table.split_once('.').is_some_and(|(schema, name)| is_name(schema) && is_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_file_says_how_it_runs() {
        let script = Script::parse(
            "0012_tiers.sql",
            "-- Every memory has a tier.\n-- as: owner\n-- lifts-force: memoric.memories, memoric.users\n-- rows: every\n-- compatible-from: 11\nUPDATE;\n-- as: admin\n",
        )
        .unwrap();

        assert_eq!((script.number, script.name, script.runs_as), (12, "tiers", RunsAs::Owner));
        assert_eq!(script.lifts_force, ["memoric.memories", "memoric.users"]);
        assert_eq!((script.rows, script.compatible_from, script.is_bare), (Rows::Every, 11, false));
    }

    #[test]
    fn what_is_not_a_migration_is_refused() {
        for (file, sql) in [
            ("1_a.sql", "-- True.\n-- as: owner\n"),
            ("0001.sql", "-- True.\n-- as: owner\n"),
            ("0001_a.txt", "-- True.\n-- as: owner\n"),
            ("0001_a.sql", "SELECT 1"),
            ("0001_a.sql", "-- True\n-- as: owner\n"),
            ("0001_a.sql", "-- True.\nSELECT 1"),
            ("0001_a.sql", "-- True.\n-- as: root\n"),
            ("0001_a.sql", "-- True.\n-- as: admin\n-- no-transaction\n"),
            ("0001_a.sql", "-- True.\n-- as: owner\n-- rows: every\n"),
            ("0001_a.sql", "-- True.\n-- as: owner\n-- rows: some\n"),
            ("0001_a.sql", "-- True.\n-- as: owner\n-- lifts-force: memories\n"),
            ("0001_a.sql", "-- True.\n-- as: owner\n-- lifts-force: memoric.a;DROP\n"),
            ("0001_a.sql", "-- True.\n-- as: owner\n-- compatible-from: 2\n"),
            ("0001_a.sql", "-- True.\n-- as: owner\n-- compatible-from: now\n"),
        ] {
            assert!(Script::parse(file, sql).is_err(), "{file}: {sql}");
        }
    }
}
